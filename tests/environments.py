"""Wheels, and environments outside the checkout that they are installed in."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

# Ray without the parts that no cell needs, which start slower than the cells run, and with patience on a busy machine.
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_worker_niceness": "0",  # 15 if not told
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
}
RAY_OPTIONS = ("+hydra.launcher.ray.init.include_dashboard=false", "+hydra.launcher.ray.init.num_cpus=2")


def build(source: Path, out: Path, *targets: str) -> None:
    """Build the project in the folder `source`: an "sdist", a "wheel" or both."""
    options = [word for target in targets for word in ("--target", target)]
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out), *options]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)


def make_environment(folder: Path, *wheels: Path) -> Path:
    """The scripts folder of an environment outside the checkout with these wheels in it, not the checkout.

    The heavy dependencies come from the environment that runs the tests, by a .pth file. Python reads no .pth files
    in a folder that a .pth file added, and so does not see the editable install there.
    """
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = str(scripts / "python")
    install = ["-m", "pip", "--python", python, "install", "--no-deps", "--no-index", *map(str, wheels)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True, text=True)
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages(scripts) / "heavy.pth").write_text("\n".join(sorted(here)) + "\n")
    return scripts


def site_packages(scripts: Path) -> Path:
    return Path(ask(scripts, "import sysconfig; print(sysconfig.get_path('purelib'))"))


def run(scripts: Path, cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run one of the environment's programs as from a shell that knows nothing of the checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HYDRA", "COV_"))}
    return subprocess.run(
        [str(scripts / command[0]), *command[1:]],
        cwd=cwd, env=clean, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def ask(scripts: Path, program: str) -> str:
    """What this Python program prints there."""
    done = run(scripts, scripts, "python", "-c", program)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def normzoo(scripts: Path, cwd: Path, *arguments: str) -> str:
    """What `normzoo ...` prints there."""
    done = run(scripts, cwd, "normzoo", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
