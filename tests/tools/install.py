"""Installs the pinned test back ends, clients and gates into target/tools.

A virtual environment in target/tools/venv takes what requirements.txt locks (version and
hash); the programs are linked into target/tools/bin, which the Makefile puts first on PATH.
Doing it again is free: a stamp keyed by the lock, this script, the interpreter and the place
says that nothing changed. It installs nothing outside target/tools.
"""

import fcntl
import hashlib
import importlib.util
import os
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ROOT / "target" / "tools"
VENV = TOOLS / "venv"
BIN = TOOLS / "bin"
STAMP = TOOLS / "stamp"
LOCK = pathlib.Path(__file__).with_name("requirements.txt")

# Program → the arguments that print its version; None: it has none, so only its file is checked.
PROGRAMS = {
    "bao": ["version"],
    "buf": ["--version"],
    "cargo-deny": ["--version"],
    "cargo-nextest": ["nextest", "--version"],
    "ministack": None,
    "moto_server": None,
}


def main():
    TOOLS.mkdir(parents=True, exist_ok=True)
    with open(TOOLS / "lock", "w", encoding="utf-8") as lock:
        # Two makes at once: the second waits, then finds the work done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        key = fingerprint()
        if is_current(key):
            return
        print("tools: installing into target/tools (once per change of the lock)", flush=True)
        STAMP.unlink(missing_ok=True)
        make_venv()
        install()
        link_programs()
        for line in versions():
            print(f"tools: {line}")
        STAMP.write_text(key, encoding="utf-8")


def fingerprint():
    """Everything that would make an existing installation the wrong one."""
    digest = hashlib.sha256()
    for path in (LOCK, pathlib.Path(__file__)):
        digest.update(path.read_bytes())
    # Scripts in a virtual environment carry its absolute path: a moved checkout needs a new one.
    digest.update(repr((sys.version_info[:3], sys.executable, platform.machine(), str(VENV))).encode())
    return digest.hexdigest()


def is_current(key):
    return (
        STAMP.is_file()
        and STAMP.read_text(encoding="utf-8") == key
        and all(os.access(BIN / name, os.X_OK) for name in PROGRAMS)
    )


def make_venv():
    # Debian ships `venv` without `ensurepip`; a pip outside the environment can then do its work.
    without_pip = [] if has("ensurepip") else ["--without-pip"]
    run([sys.executable, "-m", "venv", "--clear", *without_pip, str(VENV)])


def install():
    if has("ensurepip"):
        pip = [str(VENV / "bin" / "python"), "-m", "pip"]
    elif has("pip"):
        pip = [sys.executable, "-m", "pip", "--python", str(VENV / "bin" / "python")]
    else:
        sys.exit(
            "tools: this Python has neither `ensurepip` nor `pip`\n"
            "    Debian, Ubuntu: apt-get install python3-venv    then run `make tools` again"
        )
    # Wheels only: building from source could need compilers that CONTRIBUTING does not list. No
    # byte code: botocore alone would take longer to compile than to use.
    flags = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-compile"]
    pinned = ["--require-hashes", "--only-binary", ":all:", "--requirement", str(LOCK)]
    run([*pip, "install", *flags, *pinned])


def link_programs():
    BIN.mkdir(exist_ok=True)
    for name in PROGRAMS:
        link = BIN / name
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(find(name), BIN))


def find(name):
    """The program itself, if a package wraps it in a Python script: tests must kill the program."""
    for wrapped in VENV.glob(f"lib/python*/site-packages/*/bin/{name}"):
        wrapped.chmod(0o755)
        return wrapped
    path = VENV / "bin" / name
    if not path.is_file():
        sys.exit(f"tools: `{name}` is in none of the installed packages; see tests/tools/requirements.in")
    return path


def versions():
    for name, arguments in PROGRAMS.items():
        if arguments is None:
            yield f"{name} {package_version(name.removesuffix('_server'))}"
            continue
        done = subprocess.run([str(BIN / name), *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"tools: `{name}` does not run: {(done.stderr or done.stdout).strip()}")
        first = done.stdout.strip().splitlines()[0]
        yield first if name in first.lower() or name == "bao" else f"{name} {first}"


def package_version(package):
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    python = str(VENV / "bin" / "python")
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def has(module):
    return importlib.util.find_spec(module) is not None


def run(command):
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        sys.exit(f"tools: `{' '.join(command[:4])} …` failed with exit code {code}")


if __name__ == "__main__":
    main()
