"""A real Slurm on one machine: munged, slurmctld and several slurmd on loopback ports for nodes.

Everything is in a temporary folder, on ports of its own, by the user who starts it; a Slurm that
the machine has is not touched. Root gets Debian's packages slurm-wlm and munge installed.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
os.environ["PATH"] += ":/usr/sbin:/sbin"  # where Debian has the daemons

NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory={mib}"


class NoSlurmError(RuntimeError):
    """Slurm cannot be had here."""


def installed():
    """Make sure that the programs are there; NoSlurmError, saying why, if they are not."""
    absent = _absent()
    if absent and os.getuid() == 0 and shutil.which("apt-get"):
        # a service is not wanted here, only the programs
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        install = "install -qy --no-install-recommends slurm-wlm munge"
        for words in ("update -q", install):
            subprocess.run(["apt-get", *words.split()], env=environment, capture_output=True)
        absent = _absent()
    if absent:
        raise NoSlurmError(
            f"no {', '.join(absent)} here, which are of Debian's packages slurm-wlm and munge"
        )


def _absent():
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Cluster:
    """The daemons of one folder. environment: what sbatch, squeue and jobs need."""

    nodes = ("n1", "n2")

    def __init__(self, folder):
        self.folder = Path(folder)
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self):
        """Start everything; returns when all nodes are idle. NoSlurmError, with a log, if not."""
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
        mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 20
        values = {"host": host, "folder": self.folder, "user": pwd.getpwuid(os.getuid()).pw_name}
        text = Path(__file__).with_name("slurm.conf").read_text().format(port=port, **values)
        for node, its_port in zip(self.nodes, ports, strict=True):
            text += NODE.format(name=node, host=host, port=its_port, mib=mib) + "\n"
            (self.folder / f"spool-{node}").mkdir()
        text += f"PartitionName=all Nodes={','.join(self.nodes)} Default=YES State=UP\n"
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "state").mkdir()

    def _munge(self):
        """Its own key and socket. As root it runs as Debian's user munge: it refuses root."""
        place = self.folder / "munge"
        place.mkdir()
        key, options = place / "key-file", {}
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        if os.getuid() == 0:
            shutil.chown(place, "munge", "munge")
            shutil.chown(key, "munge", "munge")
            options = {"user": "munge", "group": "munge", "extra_groups": []}
        place.chmod(0o755)
        names = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        subprocess.run(["munged", *(f"--{n}={place / n}" for n in names)], check=True, **options)

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
        jobs = self._jobs_of(node)
        _end([*self._daemons(f"slurmd-{node}.pid"), *jobs])
        return len(jobs)

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

    def _daemons(self, pattern):
        """The numbers in the daemons' files of such a name."""
        return [int(path.read_text()) for path in self.folder.glob(pattern)]

    def down(self):
        """Kill daemons and jobs and remove the folder."""
        _end([*self._daemons("slurm*.pid"), *self._jobs_of(), *self._daemons("munge/pid-file")])
        time.sleep(1)  # until they have gone and write no more
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def cluster():
    """A Slurm in a temporary folder, its settings in this process's environment meanwhile.

    The folder is beside none of the caller's: a socket's path may not be long.
    """
    installed()
    here = Cluster(tempfile.mkdtemp(prefix="slurm-"))
    before = dict(os.environ)
    try:
        os.environ.update(here.up().environment)
        yield here
    finally:
        here.down()
        os.environ.clear()
        os.environ.update(before)


def _free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _steps_above(path):
    """The processes called slurmstepd above one, as it is in /proc."""
    found, parent = [], path
    while True:
        parent = Path("/proc") / parent.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1]
        if parent.name in "01" or not parent.joinpath("comm").read_text().startswith("slurmstepd"):
            return found
        found.append(int(parent.name))


def _end(pids):
    """Kill processes; stopped first, so that none reports another."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
