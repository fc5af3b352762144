"""Two hosts: network namespaces, joined by a pair of virtual cables. Root on Linux makes them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from campaign import (
    RESUME,
    SECONDS,
    HungError,
    UnclearError,
    check_explained,
    compare,
    flags,
    newest_step,
    read_history,
)
from forked_scripts import ROOT
from helpers import kill_tree


TIMEOUT = 20  # --ddp_timeout of the tests


class Hosts:
    """Two network namespaces on one cable; each runs one process of a run."""

    def __init__(self):
        self.names = [f"mae{os.getpid()}h{rank}" for rank in range(2)]
        self.cables = [f"m{os.getpid()}v{rank}" for rank in range(2)]
        self.running = []
        self.folder = None

    def connect(self):
        first, second = self.cables
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", first, "type", "veth", "peer", "name", second)
        for rank, (name, cable) in enumerate(zip(self.names, self.cables)):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"10.99.0.{rank + 1}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")

    def cut(self):
        """Cuts the cable."""
        ip("-n", self.names[1], "link", "set", self.cables[1], "down")

    def start(self, rank, *arguments, disk=None):
        """Starts a host's process of run_mae.py.

        Args:
            rank: Of the host.
            arguments: Of the script.
            disk: A folder that this host alone sees, in place of another one: both of them.
        """
        numbers = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        told = {name: str(value) for name, value in numbers.items()}
        where = {"MASTER_ADDR": "10.99.0.1", "MASTER_PORT": "29500"}
        where["GLOO_SOCKET_IFNAME"] = self.cables[rank]
        script = [sys.executable, str(ROOT / "scripts" / "run_mae.py"), *map(str, arguments)]
        if disk is not None:  # namespaces of a network come with one of mounts
            mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
            script = ["sh", "-c", mount, *map(str, disk), *script]
        # files, for nobody empties a pipe meanwhile
        out = self.folder / f"out{len(self.running)}"
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.names[rank], *script],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **where, **told},
            stdout=subprocess.DEVNULL,
            stderr=out.open("w"),
        )
        process.said = out
        self.running.append(process)
        return process

    def disconnect(self):
        for process in self.running:
            process.send_signal(signal.SIGCONT)
            kill_tree(process)
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts(tmp_path):
    if not sys.platform.startswith("linux") or os.geteuid() or shutil.which("ip") is None:
        pytest.skip("two network namespaces need root on Linux, and its command ip")
    made = Hosts()
    made.folder = tmp_path
    try:
        try:
            made.connect()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        yield made
    finally:
        made.disconnect()


def end(process, seconds=SECONDS):
    """Waits for the end of a host's process: (status, stderr)."""
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired as error:
        raise HungError(f"nothing after {seconds} s\n{process.said.read_text()}") from error
    return status, process.said.read_text()


def end_well(*processes):
    for process in processes:
        status, stderr = end(process)
        assert status == 0, stderr


def wait_for_checkpoint(output, process):
    deadline = time.monotonic() + SECONDS
    while newest_step(output) < 4:
        assert process.poll() is None, process.said.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.fault("two hosts")
def test_two_hosts_are_one_run(hosts, whole, whole_of_two, tmp_path):
    """Also when each has a disk of its own: to the bit as two processes of one host, and close to
    one process."""
    output = tmp_path / "run"
    disks = own_disks(tmp_path, output)
    end_well(*(hosts.start(rank, *flags(output, 2), disk=disks[rank]) for rank in range(2)))
    compare(tmp_path / "disk0", whole_of_two)
    assert not list((tmp_path / "disk1").rglob("*.safetensors"))
    losses, expected = (losses_of(folder) for folder in (tmp_path / "disk0", whole))
    assert losses == pytest.approx(expected, abs=1e-5)


def own_disks(tmp_path, output):
    """For each host a folder that it alone sees as the output folder."""
    output.mkdir()
    made = []
    for rank in range(2):
        disk = tmp_path / f"disk{rank}"
        disk.mkdir()
        made.append((disk, output))
    return made


def losses_of(folder):
    return [value for _, key, value in read_history(folder) if key == "loss"]


def kill(hosts, process):
    kill_tree(process)


def freeze(hosts, process):
    process.send_signal(signal.SIGSTOP)


def cut(hosts, process):
    hosts.cut()


IN_CAMPAIGN = pytest.mark.campaign


@pytest.mark.fault("a host is lost")
@pytest.mark.parametrize(
    ("lose", "lost"),
    [
        (kill, 1),
        pytest.param(kill, 0, marks=IN_CAMPAIGN),
        pytest.param(freeze, 1, marks=IN_CAMPAIGN),
        pytest.param(freeze, 0, marks=IN_CAMPAIGN),
        pytest.param(cut, 1, marks=IN_CAMPAIGN),
    ],
)
def test_a_host_is_lost(lose, lost, hosts, whole_of_two, tmp_path):
    """The other ends in a line, within the time limit; both go on, bit for bit."""
    output = tmp_path / "run"
    arguments = [*flags(output, 2), f"--ddp_timeout={TIMEOUT}"]
    processes = [hosts.start(rank, *arguments) for rank in range(2)]
    wait_for_checkpoint(output, processes[0])
    lose(hosts, processes[lost])
    status, stderr = end(processes[1 - lost], 60 if lose is kill else 60 + TIMEOUT)
    assert status != 0
    check_explained("run_mae.py", status, stderr)

    hosts.disconnect()
    hosts.connect()
    end_well(*(hosts.start(rank, *arguments, RESUME) for rank in range(2)))
    compare(output, whole_of_two)


@pytest.mark.fault("hosts that see other folders")
def test_a_host_that_does_not_see_the_checkpoints(hosts, whole_of_two, tmp_path):
    """Both end, one of them in a line that names the checkpoint."""
    output = tmp_path / "run"
    disks = own_disks(tmp_path, output)
    shutil.copytree(whole_of_two / "checkpoint-8", tmp_path / "disk0" / "checkpoint-8")
    arguments = [*flags(output, 2), RESUME]
    processes = [hosts.start(rank, *arguments, disk=disks[rank]) for rank in range(2)]
    said = ""
    for process in processes:
        status, stderr = end(process)
        assert status != 0
        check_explained("run_mae.py", status, stderr)
        said += stderr
    if "checkpoint-8" not in said:
        raise UnclearError(said)
