"""A real Slurm on one machine: munged, slurmctld and several slurmd on loopback ports for nodes.

`python tests/slurm_cluster.py up FOLDER [--nodes 2] [--install]` brings it up and prints the
setting that sbatch and squeue need; `down FOLDER` ends it and removes the folder. Everything is in
that folder, on ports of its own, by the user who starts it; a Slurm that the machine has is not
touched. Debian's packages slurm-wlm and munge are installed with --install, or if root starts it.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
os.environ["PATH"] += ":/usr/sbin:/sbin"  # where Debian has the daemons

# NodeName, ports and folders are filled in; times are short, so that a dead node is noticed soon
# and a job that is started again need not wait for its old credential to expire.
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdTimeout=6
KillWait=5
MessageTimeout=3
TCPTimeout=1
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory={mib}"


class NoSlurmError(RuntimeError):
    """Slurm cannot be had here."""


def installed(install=False):
    """Make sure that the programs are there; NoSlurmError, saying why, if they are not."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent and (install or os.getuid() == 0) and shutil.which("apt-get"):
        # a service is not wanted here, only the programs
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        packages = ["slurm-wlm", "munge"]
        for command in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *packages]):
            done = subprocess.run(
                ["apt-get", *command], env=environment, capture_output=True, text=True
            )
        if done.returncode:
            said = (done.stderr.strip() or "nothing").splitlines()[-1]
            raise NoSlurmError(f"slurm-wlm and munge cannot be installed: apt-get said: {said}")
        absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        raise NoSlurmError(
            f"no {', '.join(absent)} here; of Debian's packages slurm-wlm and munge, which "
            "`python tests/slurm_cluster.py up FOLDER --install` installs as root"
        )


class Cluster:
    """The daemons of one folder. environment: what sbatch, squeue and jobs need."""

    def __init__(self, folder, nodes=2):
        self.folder = Path(folder).absolute()
        self.nodes = [f"n{place + 1}" for place in range(nodes)]
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self):
        """Start everything; returns when all nodes are idle. NoSlurmError, with a log, if not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._configure()
        self._munge()
        self._start("slurmctld")
        for node in self.nodes:
            self._start("slurmd", "-N", node)
        until = time.monotonic() + 60
        while self.states() != dict.fromkeys(self.nodes, "idle"):
            if time.monotonic() > until:
                logs = [path.read_text()[-600:] for path in sorted(self.folder.glob("slurm*.log"))]
                raise NoSlurmError(f"the nodes are {self.states()}\n" + "\n".join(logs))
            time.sleep(0.2)
        return self

    def _configure(self):
        host = socket.gethostname().split(".")[0]
        port, *ports = _free_ports(1 + len(self.nodes))
        mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10
        values = {"host": host, "folder": self.folder, "user": _user()}
        text = CONFIGURATION.format(port=port, **values)
        for node, its_port in zip(self.nodes, ports, strict=True):
            share = mib // len(self.nodes)
            text += NODE.format(name=node, host=host, port=its_port, mib=share) + "\n"
            (self.folder / f"spool-{node}").mkdir(exist_ok=True)
        text += f"PartitionName=all Nodes={','.join(self.nodes)} Default=YES State=UP\n"
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "state").mkdir(exist_ok=True)

    def _munge(self):
        """Its own key and socket. As root it runs as Debian's user munge: it refuses root."""
        place = self.folder / "munge"
        place.mkdir(exist_ok=True)
        key = place / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        options = {}
        if os.getuid() == 0:
            shutil.chown(place, "munge", "munge")
            shutil.chown(key, "munge", "munge")
            options = {"user": "munge", "group": "munge", "extra_groups": []}
        place.chmod(0o755)
        files = {"key": key, "socket": "socket", "pid": "pid", "log": "log", "seed": "seed"}
        files = {name: place / file for name, file in files.items()}
        command = ["munged", f"--key-file={files['key']}", f"--socket={files['socket']}"]
        command += [f"--{name}-file={files[name]}" for name in ("pid", "log", "seed")]
        subprocess.run(command, check=True, **options)

    def _start(self, daemon, *arguments):
        command = [daemon, "-f", self.environment["SLURM_CONF"], *arguments]
        subprocess.run(command, check=True, env={**os.environ, **self.environment})

    def ask(self, *command):
        """What one of Slurm's commands prints; empty where it fails."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout

    def states(self):
        """node -> `idle`, `allocated`, `down*` and so on."""
        lines = self.ask("sinfo", "-h", "-N", "-o", "%N %T").splitlines()
        return dict(line.split() for line in lines)

    def kill(self, node):
        """`kill -9` on a node: its slurmd and its jobs' processes, as when its power fails.

        Returns the number of those processes.
        """
        pids = [_number(self.folder / f"slurmd-{node}.pid"), *self._jobs_of(node)]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped, so that none reports another
            for pid in filter(None, pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        return len(pids) - 1

    def kill_task(self, node):
        """`kill -9` on the Python of a node's job; its slurmd lives on and reports it."""
        killed = 0
        for pid in self._jobs_of(node):
            with contextlib.suppress(OSError):
                place = Path(f"/proc/{pid}")
                ours = b"submitit.core._submit" in (place / "cmdline").read_bytes()
                if ours and (place / "comm").read_text().strip() != "srun":
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        return killed

    def _jobs_of(self, node=None):
        """Processes of this cluster's jobs (on one node): those with its settings, and above them
        the slurmstepd that started them."""
        wanted = {f"SLURM_CONF={self.environment['SLURM_CONF']}"}
        wanted |= {f"SLURMD_NODENAME={node}"} if node else set()
        found = set()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                has = (path / "environ").read_bytes().decode(errors="replace").split("\0")
                step = (path / "comm").read_text().startswith("slurmstepd")  # left by its job
                if wanted <= set(has) and (step or any(v.startswith("SLURM_JOB_ID=") for v in has)):
                    found |= {int(path.name), *_steps_above(path)}
        return found - {os.getpid()}

    def down(self):
        """End jobs and daemons and remove the folder."""
        self.ask("scancel", "--me", "--signal=KILL")
        daemons = ["slurmctld", *(f"slurmd-{node}" for node in self.nodes)]
        files = [*(self.folder / f"{name}.pid" for name in daemons), self.folder / "munge" / "pid"]
        pids = [_number(path) for path in files]
        _end(filter(None, pids[:-1]))
        _end(self._jobs_of())
        _end(filter(None, pids[-1:]))
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def cluster(nodes=2):
    """A Slurm in a temporary folder, its settings in this process's environment meanwhile.

    The folder is beside none of the caller's: a socket's path may not be long.
    """
    installed()
    here = Cluster(tempfile.mkdtemp(prefix="slurm-"), nodes)
    before = dict(os.environ)
    try:
        os.environ.update(here.up().environment)
        yield here
    finally:
        here.down()
        os.environ.clear()
        os.environ.update(before)


def _user():
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _number(path):
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _steps_above(path):
    """The processes called slurmstepd above one, as it is in /proc."""
    found, parent = [], path
    while True:
        parent = Path("/proc") / parent.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1]
        if parent.name in "01" or not parent.joinpath("comm").read_text().startswith("slurmstepd"):
            return found
        found.append(int(parent.name))


def _end(pids):
    """Terminate processes, kill those that are there after five seconds."""
    pids = list(pids)
    for number, wait in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 1.0)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + wait
        while time.monotonic() < until and any(map(_alive, pids)):
            time.sleep(0.05)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def main(arguments=None):
    """Bring it up or take it down; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("folder")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--install", action="store_true", help="the packages, if absent")
    options = parser.parse_args(arguments)
    one = Cluster(options.folder, options.nodes)
    if options.what == "down":
        one.nodes = [p.name.removeprefix("spool-") for p in one.folder.glob("spool-*")]
        one.down()
        return 0
    try:
        installed(options.install)
        one.up()
    except NoSlurmError as error:
        one.down()
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"export SLURM_CONF={one.environment['SLURM_CONF']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
