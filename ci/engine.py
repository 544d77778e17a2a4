"""Gets a Docker engine: one that already runs, used as it is, or one of our own that ends with us.

Our own listens on one Unix socket alone, which no other user can reach (in the cache folder or, where that path is too
long for a socket, in /run), has no bridge and writes no firewall rule: it changes nothing for anybody else.
"""

import fcntl
import hashlib
import json
import os
import platform as computer
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import DockerException

from ci import cache, host
from ci.platforms import Platform, read_flags
from ci.progress import say, step

# The longest path of a Unix socket is 107 bytes, and containerd appends to the folder that it is given.
_LONGEST_FOLDER = 60
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


class EngineError(RuntimeError):
    """No Docker engine could be had; the text says why and what to do."""


@dataclass(frozen=True)
class Engine:
    """A Docker engine that answers."""

    client: docker.DockerClient
    architecture: str
    """The engine's own, as platform.machine() spells it."""
    local: bool
    """Whether its kernel is this computer's, so that /proc and the programs here are the ones containers see."""
    log: Path | None = None
    """Where our own engine writes its log."""
    rootless: bool = False
    """Whether root inside a container is the one who runs the engine, and other users are nobody here."""
    remaps_users: bool = False
    """Whether users inside a container are others here, unless a container asks to be left out."""

    @property
    def program_environment(self) -> dict[str, str]:
        """Return what leads the program `docker` here: our own engine is not where it looks by itself."""
        return {"DOCKER_HOST": f"unix://{socket_folder() / 'docker.sock'}"} if self.log else {}

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of our own engine's log; nothing for an engine that is not ours."""
        return _tail(self.log, lines) if self.log else ""

    def cpu_flags(self, image: str) -> frozenset[str]:
        """Return the flags of the engine's own CPU; an engine elsewhere is asked through an image that runs there."""
        if self.local:
            return read_flags(Path("/proc/cpuinfo").read_text())
        output = self.client.containers.run(image, ["cat", "/proc/cpuinfo"], network_mode="none", remove=True)
        return read_flags(output.decode())


@contextmanager
def running(platforms: Sequence[Platform]) -> Iterator[Engine]:
    """Give a Docker engine on which machines of these platforms can run.

    An engine that answers is used as it is, and nothing is installed. Otherwise, on Debian and Ubuntu, the missing
    packages are installed (after saying so) and, where no init system starts the engine, one of our own is started; it
    stops when the last run that uses it leaves.

    Raises
    ------
    EngineError, host.HostError
        When there is no way; the text says what to do.
    """
    with ExitStack() as stack:
        client = _answering()
        if client is None:
            host.prepare(platforms)
            client = _started_by_init()
        if client is not None:
            yield _describe(stack.enter_context(_closing(client)), local=_is_local(client), log=None)
            return
        yield stack.enter_context(_own())


@contextmanager
def existing() -> Iterator[Engine]:
    """Give the engine that `running` would, if it can be had without changing this computer."""
    if client := _answering():
        with _closing(client):
            yield _describe(client, local=_is_local(client), log=None)
    elif (cache.root() / "docker" / "data").exists() and host.program("dockerd") and host.is_root():
        with _own() as found:
            yield found
    else:
        raise EngineError("no Docker engine answers, and there is none of our own")


def _answering() -> docker.DockerClient | None:
    """Return a client of the engine that already runs, if one does."""
    if chosen := os.environ.get("DOCKER_HOST"):
        try:
            return docker.from_env(timeout=None)
        except DockerException as error:
            raise EngineError(
                f"DOCKER_HOST is {chosen!r}, but no engine answers there: {error}. Start it, or unset DOCKER_HOST."
            ) from None
    for url in _default_urls():
        client, reason = _connect(url)
        if client is not None:
            say(f"using the Docker engine at {url}")
            return client
        if "Permission denied" in reason:
            raise EngineError(
                f"A Docker engine is at {url}, but you may not use it: join the group docker, or run this with sudo."
            )
    return None


def _default_urls() -> list[str]:
    """Return where an engine usually listens; the client's chosen context first (Docker Desktop, colima, rootless)."""
    urls = []
    if client := host.program("docker"):
        command = [client, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        urls += [line for line in done.stdout.split() if done.returncode == 0]
    sockets = [Path("/var/run/docker.sock"), Path.home() / ".docker/run/docker.sock"]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        sockets.append(Path(runtime) / "docker.sock")
    urls += [f"unix://{socket}" for socket in sockets if socket.exists()]
    return list(dict.fromkeys(urls))


def _connect(url: str) -> tuple[docker.DockerClient | None, str]:
    # No time limit on answers: a silent build or computation is not a broken engine. Callers set their own limits.
    try:
        client = docker.DockerClient(base_url=url, timeout=None, version="auto", max_pool_size=32)
    except DockerException as error:
        return None, str(error)
    return client, ""


def _started_by_init() -> docker.DockerClient | None:
    """Return the engine that the package's own service starts, where systemd runs."""
    if not Path("/run/systemd/system").exists():
        return _answering()
    with step("waiting for systemd to start Docker"):
        subprocess.run(["systemctl", "start", "docker.service"], check=False)
        for _ in range(30):
            if client := _answering():
                return client
            time.sleep(1)
    return None


def _is_local(client: docker.DockerClient) -> bool:
    """Return whether the engine shares our kernel: Docker Desktop's socket is here too, but its kernel is not."""
    if sys.platform != "linux" or not str(client.api.base_url).startswith("http+docker://"):
        return False
    return bool(client.info().get("KernelVersion") == computer.release())


def _describe(client: docker.DockerClient, *, local: bool, log: Path | None) -> Engine:
    information = client.info()
    if information.get("OSType") != "linux":
        raise EngineError(f"the Docker engine runs {information.get('OSType')} containers: switch it to Linux ones")
    architecture = information["Architecture"]
    security = {option.partition(",")[0] for option in information.get("SecurityOptions") or ()}
    return Engine(
        client,
        _ARCHITECTURES.get(architecture, architecture),
        local,
        log,
        rootless="name=rootless" in security,
        remaps_users="name=userns" in security,
    )


@contextmanager
def _closing(client: docker.DockerClient) -> Iterator[docker.DockerClient]:
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _own() -> Iterator[Engine]:
    """Run an engine of our own, shared by all runs of this cache folder; the last one out stops it."""
    folder = cache.folder("docker")
    with (folder / "users.lock").open("a") as users:
        with cache.lock(folder / "start.lock"):
            client = _start(folder)
            # Freed by the kernel when we end in any way, so a killed run counts no more.
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            with _closing(client):
                yield _describe(client, local=True, log=folder / "dockerd.log")
        finally:
            with cache.lock(folder / "start.lock"), suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stop()


def socket_folder() -> Path:
    """Return where our own engine's sockets are."""
    folder = cache.root() / "docker"
    if len(bytes(folder)) <= _LONGEST_FOLDER:
        return folder / "run"
    return Path("/run") / f"constann-{hashlib.sha256(bytes(folder)).hexdigest()[:12]}"


def _start(folder: Path) -> docker.DockerClient:
    sockets = socket_folder()
    sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
    url = f"unix://{sockets / 'docker.sock'}"
    if _own_process(folder):
        client, _ = _connect(url)
        if client is not None:
            say("using the Docker engine that another run of ours started")
            return client
        stop()
    pidfile = folder / "dockerd.pid"
    _forget_killed(pidfile, sockets / "exec/containerd/containerd.pid")
    log = folder / "dockerd.log"
    with step("starting a Docker engine of our own"), log.open("w") as output:
        # A session of its own: Ctrl-C is for us, who still need it to remove our containers.
        process = subprocess.Popen(
            _command(folder, sockets, url, pidfile), stdout=output, stderr=output, start_new_session=True
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            client, _ = _connect(url)
            if client is not None:
                return client
            time.sleep(0.2)
        process.kill()
        process.wait()
    raise EngineError(f"dockerd did not start (exit status {process.returncode}).{_tail(log, 25)}")


def _forget_killed(*pidfiles: Path) -> None:
    """Remove pidfiles of killed programs.

    The number may be another program's by now, or a zombie's, which dockerd takes for alive and waits for in vain.
    """
    for pidfile in pidfiles:
        if pidfile.exists():
            command = _arguments(pidfile.read_text().strip())
            if not command or Path(command[0]).name != pidfile.stem:
                pidfile.unlink()


def _tail(log: Path, lines: int) -> str:
    """Return the end of a log, without the steps that went well."""
    if not log.exists():
        return ""
    text = [line for line in log.read_text(errors="replace").splitlines() if "level=info" not in line]
    return f"\nThe end of {log}:\n" + "\n".join(text[-lines:])


def _command(folder: Path, sockets: Path, url: str, pidfile: Path) -> list[str]:
    configuration = folder / "daemon.json"
    configuration.write_text(json.dumps(_kept_settings(Path("/etc/docker/daemon.json"))))
    return [
        host.program("dockerd") or "dockerd",
        f"--config-file={configuration}",
        f"--data-root={folder / 'data'}",
        f"--exec-root={sockets / 'exec'}",
        f"--pidfile={pidfile}",
        f"--host={url}",
        # Machines have no network, and preparing an image uses the host's: no bridge, no rules, no forwarding.
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
        "--ip-masq=false",
    ]


def _kept_settings(path: Path) -> dict[str, object]:
    """Return the administrator's settings that concern reaching a registry; others could clash with our options."""
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {key: settings[key] for key in ("registry-mirrors", "insecure-registries", "proxies") if key in settings}


def _own_process(folder: Path) -> int | None:
    """Return the process of our own engine, if it lives: the number in the file may belong to another program."""
    try:
        number = (folder / "dockerd.pid").read_text().strip()
    except OSError:
        return None
    return int(number) if f"--data-root={folder / 'data'}" in _arguments(number) else None


def _arguments(process: str) -> list[str]:
    """Return a process's command line; empty for one that is gone or a zombie."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def stop() -> None:
    """Stop our own engine, if it runs."""
    folder = cache.folder("docker")
    number = _own_process(folder)
    if number is None:
        return
    os.kill(number, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(ChildProcessError):
            os.waitpid(number, os.WNOHANG)
        if _own_process(folder) is None:
            say("stopped our Docker engine")
            return
        time.sleep(0.1)
    os.kill(number, signal.SIGKILL)
    say("our Docker engine did not stop in 20 s: killed it")
