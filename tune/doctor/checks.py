"""PARTS: everything that `doctor` tries. A new check is one function and one line in a part.

The checks of a part run one after another in a process of their own, and the parts at the same time. So a check that
hangs or crashes takes only the rest of its part with it, and packages that take seconds are imported side by side.
"""

from __future__ import annotations

from tune.doctor.finding import Check

PARTS: dict[str, tuple[Check, ...]] = {
    "machine": (
        Check(kind="version", tried="look up the installed packages", function="tune.doctor.machine:versions_here"),
        Check(kind="folder", tried="write a file in HOME", function="tune.doctor.machine:home"),
        Check(
            kind="folder",
            tried="write 1 MiB in the folder for temporary files",
            function="tune.doctor.machine:temporary",
            needed=True,
        ),
        Check(kind="limit", tried="read the limits of this process", function="tune.doctor.machine:limits"),
        Check(kind="memory", tried="read how much memory is free", function="tune.doctor.machine:memory"),
        Check(kind="shared memory", tried="look for room", function="tune.doctor.machine:shared_memory"),
    ),
    "storage": (
        Check(
            kind="storage",
            tried="make a folder there that only its owner may enter",
            function="tune.doctor.storage:folder",
            needed=True,
        ),
        Check(kind="disk", tried="look for room", function="tune.doctor.storage:disk"),
        Check(kind="clock", tried="compare a new file's time with ours", function="tune.doctor.storage:clock"),
        Check(kind="data set", tried="look for its file", function="tune.doctor.storage:data_sets"),
    ),
    "store": (
        Check(
            kind="MLflow store", tried="ask it as a sweep does", function="tune.doctor.store:answers", needed=True
        ),
        Check(
            kind="artifacts",
            tried="store, read and remove a small file",
            function="tune.doctor.store:artifacts",
            needed=True,
        ),
        Check(kind="MLflow store", tried="lock it for writing", function="tune.doctor.store:unlocked"),
        Check(kind="clock", tried="compare the server's clock with ours", function="tune.doctor.store:clock"),
    ),
    "torch": (
        Check(kind="start-up", tried="find the bytecode of torch", function="tune.doctor.compute:bytecode"),
        Check(
            kind="compiler",
            tried="compile and load a file as PyTorch's compiler and Triton do",
            function="tune.doctor.compute:compiler",
        ),
        Check(
            kind="device",
            tried="allocate on each GPU and run a kernel there",
            function="tune.doctor.compute:devices",
            needed=True,
        ),
        Check(kind="Triton", tried="compile and run a kernel", function="tune.doctor.compute:triton", needed=True),
        Check(kind="attention", tried="plan a trial with it", function="tune.doctor.compute:backends"),
        Check(kind="layers", tried="plan the default model", function="tune.doctor.compute:layers"),
        Check(kind="preset", tried="plan each preset", function="tune.doctor.compute:presets"),
        Check(kind="engine", tried="plan a trial with it", function="tune.doctor.compute:engines"),
        Check(kind="sweep", tried="plan the default sweep", function="tune.doctor.compute:default_sweep", needed=True),
    ),
    "Ray": (
        Check(
            kind="Ray",
            tried="start it as a sweep does and import our packages in a worker",
            function="tune.doctor.ray_here:starts",
            needed=True,
        ),
    ),
}  # fmt: skip
