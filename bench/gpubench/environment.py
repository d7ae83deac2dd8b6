"""Where a measurement ran, without saying whose machine it is.

Host names, user names and paths are never kept. Identities become hashes with a salt that is made
once per installation, so that one's own files can be told apart by machine and a stranger learns
nothing; ``identify`` leaves the salt out, for fleets that want to recognise their machines.
"""

import getpass
import hashlib
import os
import platform
import re
import secrets
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import gpubench
from gpubench import plugins
from gpubench.device import Device
from gpubench.errors import EnvironmentRefused

SALT_BYTES = 16
#: by these git tells its hooks which repository and index to work on, whatever folder they name
OF_HOOKS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_PREFIX")


def describe(device: Device, *, identify: bool = False) -> dict[str, Any]:
    """The provenance columns of `record.Record` for this process and device."""
    facts = asdict(device.info)
    for column in ("name", "cache_bytes"):
        del facts[column]
    unique = facts.pop("uuid")
    return facts | {
        "provenance": device.provenance,
        "device_uuid_hash": _hashed(unique, identify=identify) if unique else None,
        "host_hash": _hashed(_machine_identity(), identify=identify),
        "python": platform.python_version(),
        "os": f"{platform.system()} {_plain_version(platform.release())}",
        "cpu": processor_name(),
        "gpubench_version": gpubench.__version__,
        **_software(),
        **_checkout_state(),
    }


def _software() -> dict[str, Any]:
    """Versions, read from what is already imported; nothing is imported for it."""
    found: dict[str, Any] = {"torch": _version("torch")}
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        found["cupy"] = found.get("cupy") or _version(name)
    torch = sys.modules.get("torch")
    if torch is not None:
        found |= {
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
            "threads": torch.get_num_threads(),
        }
        cudnn = torch.backends.cudnn.version() if torch.version.cuda else None
        found["cudnn"] = str(cudnn) if cudnn else None
    return found


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _plain_version(release: str) -> str:
    """``6.8.0-41-generic`` → ``6.8.0``: a kernel of one's own has a name that tells whose it is."""
    found = re.match(r"\d+(\.\d+)*", release)
    return found[0] if found else ""


def core_count() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def processor_facts() -> dict[str, str]:
    """First core's lines of Linux's /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    first = path.read_text().partition("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def processor_name() -> str:
    """The processor's model, or failing that its architecture, with the cores in use."""
    model = processor_facts().get("model name") or platform.processor() or platform.machine()
    return f"{model} ({core_count()} cores)"


def _checkout_state() -> dict[str, Any]:
    """Commit of the checkout that gpubench runs from; unknown when it is installed."""
    root = plugins.checkout()
    if root is None:
        return {}

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        environ = outside_of_hooks(os.environ)
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def outside_of_hooks(variables: Mapping[str, str]) -> dict[str, str]:
    """Environment variables for git itself: in a hook it would write to the hook's own index."""
    return {name: value for name, value in variables.items() if name not in OF_HOOKS}


def _hashed(identity: str, *, identify: bool) -> str:
    salt = b"" if identify else _salt()
    return hashlib.blake2b(identity.encode(), key=salt, digest_size=8).hexdigest()


def _machine_identity() -> str:
    """The operating system's own identity; else the network card's address."""
    path = Path("/etc/machine-id")
    return (path.read_text().strip() if path.exists() else "") or str(uuid.getnode())


def _salt() -> bytes:
    """The installation's salt, made on first use; for this process only if it can't be kept."""
    fresh = secrets.token_bytes(SALT_BYTES)
    try:
        path = plugins.settings() / "salt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size != SALT_BYTES:
            # In place at once and whole: no other process may take half a salt for none.
            temporary = path.with_name(f".salt.{os.getpid()}")
            temporary.write_bytes(fresh)
            temporary.replace(path)
        return path.read_bytes()
    except (OSError, EnvironmentRefused):
        return fresh


def without_identity(text: str) -> str:
    """``text`` with this machine's and user's names and all folders taken out.

    For reasons of failed cases: the errors of libraries like to quote paths.
    """
    home = os.path.expanduser("~").rstrip("/")  # noqa: PTH111 - Path.home() raises without one
    if len(home) > 1:  # it may end the text, and hold signs that the pattern below doesn't
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "/home", text)
    text = re.sub(r"(?<![\w.])(?:[A-Za-z]:)?(?:[\\/][\w.+@-][\w.+@ -]*)+[\\/]", "…/", text)
    host = socket.gethostname()
    secrets_ = ((host, "HOST"), (host.partition(".")[0], "HOST"), (_user(), "USER"))
    for secret, stand_in in secrets_:
        if len(secret) > 2:
            text = re.sub(rf"\b{re.escape(secret)}\b", stand_in, text, flags=re.IGNORECASE)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
