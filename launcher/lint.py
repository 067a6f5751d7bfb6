"""What stands in the way of `ray up FILE`: Ray's own schema and loader, and what those do not see.

python -m launcher.lint cluster.yaml        one line per finding; exit code 1 if there is one, 2 for no such file
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tune.common.errors import did_you_mean

Config = dict[str, Any]
Findings = Iterator[str]

PLACEHOLDER = "REPLACE-ME"
TOKEN = "~/.ray/auth_token"
# What Ray 2.60 reads of `provider` (autoscaler/_private: aws/, local/, commands.py); its schema takes any key.
OF_EVERY_PROVIDER = frozenset({"type", "worker_liveness_check", "foreground_node_launch"})
OF_EVERY_PROVIDER |= {"disable_node_updaters", "disable_launch_config_check"}
OF_AWS = frozenset({"region", "availability_zone", "use_internal_ips", "aws_credentials", "key_pair", "cloudwatch"})
OF_AWS |= {"security_group", "cache_stopped_nodes"}
PROVIDER_KEYS = {
    "aws": OF_EVERY_PROVIDER | OF_AWS,
    "local": OF_EVERY_PROVIDER | {"head_ip", "worker_ips", "external_head_ip"},
}
COMMANDS = ("setup_commands", "head_setup_commands", "worker_setup_commands")
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")
LONGEST_IDLE_MINUTES = 60


def findings(file: Path) -> list[str]:
    """Each finding in one line: what is there, and what to write instead. Raises OSError where there is no file.

    Paths in the file count from its folder, as for `ray up` in that folder.
    """
    try:
        config = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        return [f"no YAML: {' '.join(str(error).split())}"]
    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict):
        return ["no cluster: `provider:` with `type: aws` or `type: local` is missing"]
    if config["provider"].get("type") not in PROVIDER_KEYS:
        return [f"provider.type {config['provider'].get('type')}: this lint knows {' and '.join(PROVIDER_KEYS)}"]
    if (refused := _refused_by_ray(config)) is not None:
        return [refused]  # the rules below rely on the form that Ray's schema asks for
    with contextlib.chdir(file.absolute().parent):
        return [finding for rule in RULES for finding in rule(config)]


def _refused_by_ray(config: Config) -> str | None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            validate_config(prepare_config(config))
    except (Exception, SystemExit) as error:  # jsonschema's, ValueError, click's; aborts print and exit
        reason = getattr(error, "message", None) or str(error) or said.getvalue()
        return f"Ray's loader refuses it: {' '.join(str(reason).split()) or type(error).__name__}"
    return None


def _placeholders(config: Config) -> Findings:
    for path, text in _texts(config):
        if PLACEHOLDER in text:
            yield f"{path}: {PLACEHOLDER} is left in it; write your own value"


def _provider(config: Config) -> Findings:
    kind = config["provider"]["type"]
    for key in config["provider"]:
        if key not in PROVIDER_KEYS[kind]:
            near = did_you_mean(key, PROVIDER_KEYS[kind])
            yield f"provider.{key}: Ray does not read it for {kind}, nor say so; correct it or leave it out.{near}"


def _addresses(config: Config) -> Findings:
    if config["provider"]["type"] != "local":
        return
    every = [config["provider"]["head_ip"], *config["provider"]["worker_ips"]]
    for address in every:
        if address == "localhost" or _is(address, "127.0.0.1"):
            yield f"provider: {address}: Ray joins another address instead; the machine's own, or 127.0.0.10 and up"
    for address in sorted({item for item in every if every.count(item) > 1} - {PLACEHOLDER}):
        yield f"provider: {address} is there {every.count(address)} times; each machine runs one node, name it once"


def _is(address: str, other: str) -> bool:
    try:
        return ipaddress.ip_address(address) == ipaddress.ip_address(other)
    except ValueError:
        return False


def _local_files(config: Config) -> Findings:
    files = {f"auth.{key}": config["auth"][key] for key in ("ssh_private_key",) if key in config.get("auth", {})}
    files |= {f"file_mounts.{remote}": local for remote, local in config.get("file_mounts", {}).items()}
    for name, given in files.items():
        path = Path(os.path.expanduser(given))
        how = "; `make cluster-token` makes it" if name == f"file_mounts.{TOKEN}" else ""
        if PLACEHOLDER in given:
            continue
        if not path.exists():
            yield f"{name}: {given} is not there{how or '; name a file that is'}"
        elif (name == f"file_mounts.{TOKEN}" or name.startswith("auth.")) and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield f"{name}: others may read {given}; chmod 600 {given}"


def _token(config: Config) -> Findings:
    if TOKEN not in config.get("file_mounts", {}):
        yield f"file_mounts: nothing is shipped as {TOKEN}, so the nodes share no token; add it"
    for path, command in _commands(config, START_COMMANDS):
        if "ray start" in command and not re.search(r"\bRAY_AUTH_MODE=token\b", command):
            yield f"{path}: `ray start` without token authentication; export RAY_AUTH_MODE=token in the same command"


def _given_commands(config: Config) -> Findings:
    for key in (*COMMANDS, *START_COMMANDS):
        if key not in config:
            yield f"{key}: missing: Ray's defaults run (a nightly wheel, a dashboard open to all); give it, or []"


def _command_texts(config: Config) -> Findings:
    for path, command in _commands(config, ("initialization_commands", *COMMANDS, *START_COMMANDS)):
        if re.search(r"ray-wheels|nightly|\.dev\d|\.whl\b", command):
            yield f"{path}: installs a nightly or a wheel by its address; pin packages in requirements.txt"
        if "0.0.0.0" in command or re.search(r"--(dashboard-)?host[= ]+(::|\*)", command):
            yield f"{path}: listens on all addresses; use 127.0.0.1 and a tunnel (ray dashboard, ray attach -p)"
        if "ray start" in command and "--head" in command:
            yield from _head_start(path, command, config["provider"]["type"])


def _head_start(path: str, command: str, kind: str) -> Findings:
    asked = {
        "--dashboard-host=127.0.0.1": "the dashboard runs code for whoever reaches it",
        "--num-cpus=0": "trials would land on the head",
        "--autoscaling-config=": "no worker would be started",
    }
    for option, why in asked.items():
        if option not in command:
            yield f"{path}: {option} is missing: {why}; add it"
    if kind == "local" and not re.search(r"\bRAY_enable_autoscaler_v2=0\b", command):
        yield f"{path}: the second autoscaler starts one of several worker_ips; export RAY_enable_autoscaler_v2=0"


def _image(config: Config) -> Findings:
    docker = config.get("docker") or {}
    if config["provider"]["type"] == "aws" and not docker:
        yield "docker: missing: packages would differ between nodes that start at different times; name our image"
    images = {f"docker.{key}": docker[key] for key in ("image", "head_image", "worker_image") if key in docker}
    for name, node in config.get("available_node_types", {}).items():
        if image := node.get("docker", {}).get("worker_image"):
            images[f"available_node_types.{name}.docker.worker_image"] = image
    for path, image in images.items():
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest") or "nightly" in tag:
            yield f"{path}: {image} may be another image tomorrow; name a tag of its own or a digest"


def _nodes(config: Config) -> Findings:
    if config["provider"]["type"] != "aws":
        return
    for name, node in config["available_node_types"].items():
        path = f"available_node_types.{name}"
        options = node["node_config"].get("InstanceMarketOptions", {})
        if not isinstance(options, dict):
            yield f"{path}.node_config.InstanceMarketOptions: {options or 'nothing in it'}: leave it out for on demand"
            options = {}
        market = options.get("MarketType")
        if "ImageId" not in node["node_config"]:
            yield f"{path}.node_config.ImageId: missing, so that Ray takes its own; name one"
        if name == config["head_node_type"]:
            if market == "spot":
                yield f"{path}: the head on spot is lost with the whole cluster and its results; on demand"
            if node["resources"].get("CPU", 1) or node["resources"].get("GPU", 1):
                yield f'{path}.resources: trials would land on the head; write {{"CPU": 0, "GPU": 0}}'
            continue
        if market not in (None, "spot"):
            yield f"{path}: MarketType {market}: spot, or leave InstanceMarketOptions out for on demand"
        if node.get("min_workers", 0):
            yield f"{path}.min_workers {node['min_workers']}: costs money until `ray down`; 0: a sweep asks for its own"
        if not node["resources"].get("GPU"):
            yield f"{path}.resources: the autoscaler sees no GPU in it and never starts one for a trial; write its GPUs"


def _idle(config: Config) -> Findings:
    minutes = config.get("idle_timeout_minutes")
    if minutes is None or not 0 < minutes <= LONGEST_IDLE_MINUTES:
        yield f"idle_timeout_minutes {minutes}: above 0, at most {LONGEST_IDLE_MINUTES}, or idle workers stay and cost"


RULES: tuple[Callable[[Config], Findings], ...] = (
    _placeholders,
    _provider,
    _addresses,
    _local_files,
    _token,
    _given_commands,
    _command_texts,
    _image,
    _nodes,
    _idle,
)


def _commands(config: Config, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    for key in keys:
        for at, command in enumerate(config.get(key) or []):
            yield f"{key}[{at}]", command


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a configuration, with where it lies."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _texts(item, f"{path}[{at}]")


def main(arguments: Sequence[str]) -> int:
    """Lint each file; the findings go to stdout."""
    if not arguments:
        print("error: no file given; write python -m launcher.lint cluster.yaml", file=sys.stderr)
        return 2
    found = 0
    for name in arguments:
        try:
            lines = findings(Path(name))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text in UTF-8"
            print(f"error: {name}: {reason}; name a cluster file, as cluster.yaml", file=sys.stderr)
            return 2
        found += len(lines)
        for line in lines:
            print(f"{name}: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
