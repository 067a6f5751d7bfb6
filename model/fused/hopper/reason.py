"""Which models the Hopper kernels compute. Others keep the plain Triton kernels. Importable without torch."""

from __future__ import annotations

WIDTH = 128  # of the model
FFN_WIDTHS = (128, 256, 384, 512)  # all of w1 lies in a program's shared memory beside its rows
INSTEAD = "plain Triton kernels run instead"


def hopper_reason(
    *, d_model: int, ffn_dim: int, head_dim: int, norm_type: str, pre_norm: bool, activation: str, dropout: float,
    dtype: str, capability: tuple[int, int] | None,
) -> str | None:  # fmt: skip
    """Why the Hopper kernels do not compute this model's layers on that device, in one line; None where they do.

    dtype: of the activations, as "bf16". dropout: the highest rate inside the layers. capability: None is unknown.
    """
    if capability is None or capability[0] != 9:
        given = "unknown" if capability is None else f"{capability[0]}.{capability[1]}"
        return f"Hopper kernels need compute capability 9.0 and this GPU's is {given}: {INSTEAD}"
    if dtype != "bf16":
        return f"Hopper kernels compute in bf16 and got {dtype}: {INSTEAD}"
    if d_model != WIDTH:
        return f"Hopper kernels take a d_model of {WIDTH} and got {d_model}: {INSTEAD}"
    if ffn_dim not in FFN_WIDTHS:
        widths = ", ".join(map(str, FFN_WIDTHS))
        return f"Hopper kernels take an ffn_dim of {widths} and got {ffn_dim}: {INSTEAD}"
    if head_dim % 8:
        return f"Hopper kernels take heads of a width divisible by 8 and got {head_dim}: {INSTEAD}"
    if norm_type != "batchnorm":
        return f"Hopper kernels normalise by batch norm and got {norm_type}: {INSTEAD}"
    if activation != "gelu":
        return f"Hopper kernels compute GELU and got {activation}: {INSTEAD}"
    if pre_norm and dropout > 0:  # written and emulated, but no GPU has run a model of them
        return (
            f"Hopper kernels drop inside where norms follow the sublayers, and got pre_norm with {dropout:g}: {INSTEAD}"
        )
    return None
