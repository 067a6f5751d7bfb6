"""The lint of a cluster file: what keeps `ray up FILE` from working, or makes it cost money or let strangers in.

python -m launcher.lint cluster.yaml        one line per finding; exit code 1 for any finding, 2 for no such file

Ray's own loader and schema run first. The rules here cover what those accept: Ray 2.60 does not look at the values of
`provider`, the commands, images, node types or local files.
"""

from __future__ import annotations

import contextlib
import io
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tune.common.errors import did_you_mean

Config = dict[str, Any]
Findings = Iterator[str]

PLACEHOLDER = "REPLACE-ME"
TOKEN = "~/.ray/auth_token"
# What Ray 2.60 reads of `provider` (autoscaler/_private: aws/, local/, commands.py). Its schema takes any key.
EVERY_PROVIDER = {"type", "worker_liveness_check", "foreground_node_launch", "disable_node_updaters"}
EVERY_PROVIDER |= {"disable_launch_config_check"}
AWS = {"region", "availability_zone", "use_internal_ips", "aws_credentials", "key_pair", "cloudwatch"}
AWS |= {"security_group", "cache_stopped_nodes"}
PROVIDER_KEYS = {
    "aws": EVERY_PROVIDER | AWS,
    "local": EVERY_PROVIDER | {"head_ip", "worker_ips", "external_head_ip"},
}
COMMANDS = ("setup_commands", "head_setup_commands", "worker_setup_commands")
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")
LONGEST_IDLE_MINUTES = 60
# Keys for which Ray has defaults that nobody wants here -> what they do, and what to write.
RAYS_COMMANDS = "Ray's own would run (a nightly wheel, a dashboard open to all); write the commands, or []"
MISSING = dict.fromkeys((*COMMANDS, *START_COMMANDS), RAYS_COMMANDS)
MISSING_ON_AWS = {
    "docker": "packages would differ between nodes that start at different times; name our image",
    "available_node_types": "Ray's own have no GPU; name a head and a GPU worker",
}
# Patterns that no command may hold -> what is wrong with them.
REFUSED_IN_COMMANDS = {
    r"ray-wheels|nightly|\.dev\d|\.whl\b": "installs a nightly or a wheel by its address; pin it in requirements.txt",
    r"0\.0\.0\.0|--(dashboard-)?host[= ]+(::|\*)": "listens on all addresses; use 127.0.0.1 and `ray attach -p`",
}
# What `ray start` needs -> what happens without it.
EVERY_START = {"RAY_AUTH_MODE=token": "the node would ask nobody for a token; export it in the same command"}
HEAD_START = {
    "--dashboard-host=127.0.0.1": "the dashboard runs code for whoever reaches it; add it",
    "--num-cpus=0": "trials would run on the head; add it",
    "--autoscaling-config": "no worker would be started; add it",
}
LOCAL_HEAD_START = {
    "RAY_enable_autoscaler_v2=0": "the other autoscaler starts only one of several worker_ips; export it"
}


def findings(file: Path) -> list[str]:
    """Each finding in one line: what is there, and what to write instead. Raises OSError if there is no file.

    Paths in the file count from its folder, as for `ray up` in that folder.
    """
    try:
        text = file.read_text()
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [f"this is no YAML: {' '.join(str(error).split())}"]
    provider = config.get("provider") if isinstance(config, dict) else None
    kind = provider.get("type") if isinstance(provider, dict) else None
    if kind not in PROVIDER_KEYS:
        return [f"provider.type is {kind or 'missing'}; this lint knows {' and '.join(PROVIDER_KEYS)}"]
    if (refusal := _refusal_of_ray(config)) is not None:
        return [refusal]  # the rules below rely on the form that Ray's schema asks for
    with contextlib.chdir(file.absolute().parent):
        return [*_placeholders(text), *(finding for rule in RULES for finding in rule(config))]


def _refusal_of_ray(config: Config) -> str | None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            validate_config(prepare_config(config))
    except (Exception, SystemExit) as error:  # jsonschema's, ValueError, click's; an abort prints and exits
        reason = getattr(error, "message", None) or str(error) or printed.getvalue()
        return f"Ray's loader refuses it: {' '.join(str(reason).split()) or type(error).__name__}"
    return None


def _placeholders(text: str) -> Findings:
    for number, line in enumerate(text.splitlines(), start=1):
        if PLACEHOLDER in re.split(r"(?:^|\s)#", line)[0]:
            yield f"line {number}: {PLACEHOLDER} is left in it; write your own value"


def _provider_keys(config: Config) -> Findings:
    kind = config["provider"]["type"]
    for key in config["provider"]:
        if key not in PROVIDER_KEYS[kind]:
            near = did_you_mean(key, PROVIDER_KEYS[kind])
            yield f"provider.{key}: Ray ignores this key for {kind}; correct it or leave it out.{near}"


def _addresses(config: Config) -> Findings:
    if config["provider"]["type"] != "local":
        return
    addresses = Counter([config["provider"]["head_ip"], *config["provider"]["worker_ips"]])
    for address, times in addresses.items():
        if address in ("localhost", "127.0.0.1"):
            yield f"provider: Ray replaces {address} by another address; write the machine's own, or 127.0.0.10 and up"
        if times > 1 and address != PLACEHOLDER:
            yield f"provider: {address} is there {times} times; each machine runs one node, so name it once"


def _local_files(config: Config) -> Findings:
    files = {f"file_mounts.{remote}": local for remote, local in config.get("file_mounts", {}).items()}
    if key := config.get("auth", {}).get("ssh_private_key"):
        files["auth.ssh_private_key"] = key
    secrets = {"auth.ssh_private_key", f"file_mounts.{TOKEN}"}
    for name, given in files.items():
        path = Path(given).expanduser()
        if PLACEHOLDER in given:
            continue
        if not path.exists():
            remedy = "`make cluster-token` makes it" if name == f"file_mounts.{TOKEN}" else "name a file that is"
            yield f"{name}: {given} is not there; {remedy}"
        elif name in secrets and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield f"{name}: others may read {given}; chmod 600 {given}"
    if TOKEN not in config.get("file_mounts", {}):
        yield f"file_mounts: {TOKEN} is missing, so the nodes would share no token; add it"


def _missing(config: Config) -> Findings:
    on_aws = config["provider"]["type"] == "aws"
    for key, why in (MISSING | MISSING_ON_AWS if on_aws else MISSING).items():
        if config.get(key) in (None, {}):
            yield f"{key} is missing: {why}"


def _commands(config: Config) -> Findings:
    for key in ("initialization_commands", *COMMANDS, *START_COMMANDS):
        for index, command in enumerate(config.get(key, [])):
            for pattern, problem in REFUSED_IN_COMMANDS.items():
                if re.search(pattern, command):
                    yield f"{key}[{index}] {problem}"
            for option, problem in _needed_by(command, config["provider"]["type"]).items():
                if not re.search(rf"(?<!\w){re.escape(option)}(?!\w)", command):
                    yield f"{key}[{index}]: `ray start` is without {option}: {problem}"


def _needed_by(command: str, kind: str) -> dict[str, str]:
    if "ray start" not in command:
        return {}
    if "--head" not in command:
        return EVERY_START
    return EVERY_START | HEAD_START | (LOCAL_HEAD_START if kind == "local" else {})


def _images(config: Config) -> Findings:
    docker = config.get("docker", {})
    images = {f"docker.{key}": docker[key] for key in ("image", "head_image", "worker_image") if key in docker}
    for name, node in config.get("available_node_types", {}).items():
        if image := node.get("docker", {}).get("worker_image"):
            images[f"available_node_types.{name}.docker.worker_image"] = image
    for path, image in images.items():
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest") or "nightly" in tag:
            yield f"{path}: {image} may be another image tomorrow; name a tag of its own or a digest"


def _nodes(config: Config) -> Findings:
    for name, node in config.get("available_node_types", {}).items():
        path, resources = f"available_node_types.{name}", node["resources"]
        market = node["node_config"].get("InstanceMarketOptions", {})
        kind = market.get("MarketType") if isinstance(market, dict) else "not a market"
        if kind not in (None, "spot"):
            yield f"{path}.node_config.InstanceMarketOptions is {market}; leave it out, or write MarketType: spot in it"
        if "ImageId" not in node["node_config"]:
            yield f"{path}.node_config.ImageId is missing: Ray would take its own; name one"
        if name == config["head_node_type"]:
            if kind == "spot":
                yield f"{path}: a head on spot can be taken away with all results; leave InstanceMarketOptions out"
            if resources.get("CPU", 1) or resources.get("GPU", 1):
                yield f'{path}.resources: trials would run on the head; write {{"CPU": 0, "GPU": 0}}'
            continue
        if workers := node.get("min_workers", 0):
            yield f"{path}.min_workers is {workers}: they cost money until `ray down`; write 0, a sweep asks for more"
        if not resources.get("GPU"):
            yield f"{path}.resources: the autoscaler sees no GPU, so starts no such node for a trial; write its GPUs"


def _idle(config: Config) -> Findings:
    minutes = config.get("idle_timeout_minutes")
    if minutes is None or not 0 < minutes <= LONGEST_IDLE_MINUTES:
        yield f"idle_timeout_minutes is {minutes}: idle workers cost money; write up to {LONGEST_IDLE_MINUTES}, above 0"


RULES: tuple[Callable[[Config], Findings], ...] = (
    _provider_keys,
    _addresses,
    _local_files,
    _missing,
    _commands,
    _images,
    _nodes,
    _idle,
)


def main(arguments: Sequence[str]) -> int:
    """Lint each file. The findings go to stdout."""
    if not arguments:
        print("error: no file given; write python -m launcher.lint cluster.yaml", file=sys.stderr)
        return 2
    exit_code = 0
    for name in arguments:
        try:
            lines = findings(Path(name))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text in UTF-8"
            print(f"error: {name}: {reason}; name a cluster file, such as cluster.yaml", file=sys.stderr)
            return 2
        for line in lines:
            print(f"{name}: {line}")
            exit_code = 1
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
