"""`./cmr` on machines of every kind, with an interpreter that only writes down what it is asked."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

STUB = r"""#!/bin/sh
# -c 'import sys...' asks for the version, -c 'import pip' whether the environment is whole.
case "$*" in
    *version_info*) [ -z "${TOO_OLD:-}" ]; exit ;;
    "-c import pip") exit 0 ;;
    --version) echo "Python 3.12.0"; exit 0 ;;
esac
echo "$*" >>"$CALLS"
case "$*" in *"${BREAK:-nothing at all}"*) exit 1 ;; esac
if [ "$1 $2" = "-m venv" ]; then
    for folder; do :; done
    mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python"
fi
case "$*" in *worker.cli*) echo "home=$CMR_HOME" ;; esac
"""


class Machine:
    """A checkout in a folder with a space in its name, and a PATH with nothing but what is put there."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "a checkout"
        self.checkout.mkdir()
        for name in ("cmr", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.checkout / name)
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in ["cat", "cksum", "tr", "dirname", "readlink", "mkdir", "rmdir", "rm", "cp", "grep", "sh", "ls"]:
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        self.calls_file = folder / "calls"
        self.program("python3", STUB)

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def start(self, *words: str, cmr: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        self.calls_file.write_text("")
        given = {"PATH": str(self.bin), "CALLS": str(self.calls_file), "HOME": "/nowhere", **environment}
        command = [str(cmr or self.checkout / "cmr"), *words]
        return subprocess.run(command, env=given, cwd="/", capture_output=True, text=True, check=False)

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_first_start_installs_torch_first_and_alone(machine: Machine) -> None:
    done = machine.start("runs", "--limit", "3")
    assert done.returncode == 0, done.stderr
    venv, uv, torch, rest, command = machine.calls
    assert venv == f"-m venv --clear {machine.checkout}/.venv"
    assert uv.endswith(" uv")
    assert "--retries 1 --extra-index-url https://download.pytorch.org/whl/cpu torch==" in torch
    assert f"-c {machine.checkout}/constraints.txt -e {machine.checkout}[test]" in rest
    assert command == "-P -m worker.cli runs --limit 3"
    assert done.stdout == f"home={machine.checkout}/var\n"
    assert [f"step {n} of 4" in done.stderr for n in range(1, 5)] == [True] * 4


def test_second_start_installs_nothing(machine: Machine) -> None:
    machine.start("up")
    machine.start("up")
    assert machine.calls == ["-P -m worker.cli up"]


@pytest.mark.parametrize("lock", ["constraints.txt", "pyproject.toml"])
def test_changed_lock_installs_again_into_the_same_environment(machine: Machine, lock: str) -> None:
    machine.start("up")
    with (machine.checkout / lock).open("a") as file:
        file.write("# changed\n")
    machine.start("up")
    assert len(machine.calls) == 4
    assert not any("venv --clear" in call for call in machine.calls)


def test_moved_checkout_installs_again(machine: Machine) -> None:
    machine.start("up")
    machine.checkout = machine.checkout.rename(machine.checkout.with_name("moved"))
    machine.start("up")
    assert len(machine.calls) == 4


def test_gpu_gets_the_gpu_build(machine: Machine) -> None:
    machine.program("nvidia-smi", "#!/bin/sh\necho 'GPU 0: Some GPU'\n")
    machine.start("up")
    assert "--extra-index-url" not in machine.calls[2]
    assert "torch==" in machine.calls[2]


def test_gpu_that_appears_later_gets_the_gpu_build(machine: Machine) -> None:
    machine.start("up")
    (machine.checkout / ".venv/lib/python3.12/site-packages/torch-2.0.0+cpu.dist-info").mkdir(parents=True)
    machine.program("nvidia-smi", "#!/bin/sh\necho 'GPU 0: Some GPU'\n")
    machine.start("up")
    assert any("--force-reinstall torch==" in call for call in machine.calls)
    machine.start("up")
    assert machine.calls == ["-P -m worker.cli up"]


def test_cpu_build_on_a_machine_with_a_gpu_is_a_fault(machine: Machine) -> None:
    machine.program("nvidia-smi", "#!/bin/sh\necho 'GPU 0: Some GPU'\n")
    done = machine.start("up", BREAK="torch.version.cuda")
    assert done.returncode == 1
    assert "built for the GPU" in done.stderr
    assert not any("worker.cli" in call for call in machine.calls)


def test_driver_without_a_gpu_gets_the_cpu_build(machine: Machine) -> None:
    machine.program("nvidia-smi", "#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    machine.start("up")
    assert "--extra-index-url" in machine.calls[2]


def test_source_of_torch_can_be_chosen(machine: Machine) -> None:
    machine.start("up", TORCH_INDEX="https://example.org/wheels")
    assert "--extra-index-url https://example.org/wheels torch==" in machine.calls[2]


@pytest.mark.parametrize(
    ("broken", "step"), [("-m venv", "Step 1"), (" uv", "Step 2"), ("torch==", "Step 3"), ("[test]", "Step 4")]
)
def test_failing_step_says_which_and_what_to_do_and_the_next_start_tries_again(
    machine: Machine, broken: str, step: str
) -> None:
    failed = machine.start("up", BREAK=broken)
    assert failed.returncode == 1
    assert step in failed.stderr
    assert "What to do: " in failed.stderr
    assert not any("worker.cli" in call for call in machine.calls)
    machine.start("up")
    assert machine.calls[-1] == "-P -m worker.cli up"


def test_old_python_is_refused_in_words(machine: Machine) -> None:
    done = machine.start("up", TOO_OLD="1")
    assert done.returncode == 1
    assert "Python 3.11 or newer" in done.stderr
    assert "apt-get install python3" in done.stderr
    assert machine.calls == []


def test_found_through_a_link_and_with_a_home_of_ones_own(machine: Machine) -> None:
    (machine.bin / "cmr").symlink_to(machine.checkout / "cmr")
    done = machine.start("up", cmr=machine.bin / "cmr", CMR_HOME="/some/where")
    assert done.stdout == "home=/some/where\n"
    assert (machine.checkout / ".venv").is_dir()


def test_two_first_starts_do_not_mix_and_a_dead_one_does_not_block(machine: Machine) -> None:
    busy = machine.checkout / ".venv.lock"
    busy.mkdir()
    (busy / "pid").write_text(f"{os.getpid()}\n")
    refused = machine.start("up")
    assert refused.returncode == 1
    assert "Another start is installing" in refused.stderr
    (busy / "pid").write_text("999999999\n")
    assert machine.start("up").returncode == 0
    assert not busy.exists()
