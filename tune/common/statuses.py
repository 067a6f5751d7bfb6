"""How a trial can end, in groups."""

MEASURED = ("done", "stopped")  # its epochs count
NO_FAILURE = (*MEASURED, "unsupported")
