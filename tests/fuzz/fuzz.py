"""Builds the fuzz targets with coverage and runs them with libFuzzer; needs a C++ compiler.

    fuzz.py run [--seconds N] [--jobs N] [TARGET…]   look for inputs that break a target
    fuzz.py minimise [TARGET…]                       add inputs to the corpus that cover more code

Inputs that reach new code are kept in target/fuzz/corpus. Inputs that break a target go to
target/fuzz/findings.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "fuzz"
CORPUS = pathlib.Path(__file__).with_name("corpus")
TARGETS = pathlib.Path(__file__).with_name("src") / "lib.rs"

# Coverage as libFuzzer reads it: the flags of `cargo fuzz`, without a sanitizer, which the stable
# compiler lacks.
COVERAGE = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
]
# An input that takes longer hangs, even on a busy machine. An input that takes more memory is a
# finding.
SECONDS_MAX = 10
MIB_MAX = 1024
# Larger inputs cover nothing that smaller ones do not.
MINIMISED_BYTES_MAX = 8192
MINIMISED_FILES_MAX = 40


def main():
    arguments = parse()
    known = targets()
    chosen = arguments.targets or list(known)
    for name in chosen:
        if name not in known:
            sys.exit(f"no target `{name}`; there are {', '.join(known)}")
    program = build()
    if arguments.command == "minimise":
        for name in chosen:
            minimise(program, name)
        return
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        runs = [pool.submit(run, program, name, known[name], arguments.seconds) for name in chosen]
        clean = [one.result() for one in runs]
    sys.exit(0 if all(clean) else 1)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "minimise"])
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    return parser.parse_intermixed_args()


def targets():
    """Each target with the bytes of its longest input."""
    found = re.findall(r'Target::new\(\s*"(\w+)",[^)]*\)(?:\s*\.up_to\(([\d_]+)\))?', TARGETS.read_text())
    return {name: int(longest.replace("_", "") or 4096) for name, longest in found}


def build():
    compiler = os.environ.get("CXX", "c++")
    if not shutil.which(compiler):
        sys.exit(
            f"missing: a C++ compiler (`{compiler}`), which libFuzzer is built with\n"
            "    Debian, Ubuntu: apt-get install g++    Fedora: dnf install gcc-c++"
        )
    rustc = subprocess.run(["rustc", "-vV"], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    triple = re.search(r"^host: (.*)$", rustc.stdout, re.M).group(1)
    flags = " ".join(["--cfg", "taskpass_fuzz", *COVERAGE])
    # With `--target`, build scripts and macros are built without these flags.
    subprocess.run(
        ["cargo", "build", "--locked", "--profile", "fuzz", "-p", "taskpass-fuzz", "--all-features"]
        + ["--target", triple, "--target-dir", str(WORK)],
        cwd=ROOT,
        check=True,
        env={**os.environ, "RUSTFLAGS": flags},
    )
    return WORK / triple / "fuzz" / "taskpass-fuzz"


def libfuzzer(program, name, *arguments, **options):
    temporary = WORK / "tmp" / name
    temporary.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "TASKPASS_FUZZ_TARGET": name, "TMPDIR": str(temporary)}
    return subprocess.run([program, *arguments], env=environment, cwd=WORK, **options)


def run(program, name, longest, seconds):
    found, findings = WORK / "corpus" / name, WORK / "findings" / name
    for directory in (found, findings):
        directory.mkdir(parents=True, exist_ok=True)
    log = WORK / f"{name}.log"
    with open(log, "w", encoding="utf-8") as out:
        done = libfuzzer(
            program,
            name,
            f"-max_total_time={seconds}",
            f"-max_len={longest}",
            f"-timeout={SECONDS_MAX}",
            # libFuzzer measures elapsed time, which means nothing beside other processes. The
            # program itself asserts its processor time.
            "-report_slow_units=3600",
            f"-rss_limit_mb={MIB_MAX}",
            f"-malloc_limit_mb={MIB_MAX // 4}",
            "-print_final_stats=1",
            f"-artifact_prefix={findings}/",
            str(found),
            str(CORPUS / name),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    text = log.read_text(encoding="utf-8", errors="replace")
    print(summary(name, text, done.returncode), flush=True)
    if done.returncode:
        print("\n".join(text.splitlines()[-30:]), flush=True)
    return done.returncode == 0


def summary(name, text, code):
    def number(pattern):
        found = re.findall(pattern, text)
        return found[-1] if found else "?"

    executed = number(r"stat::number_of_executed_units:\s*(\d+)")
    rate = number(r"stat::average_exec_per_sec:\s*(\d+)")
    covered = number(r"cov: (\d+)")
    verdict = "nothing found" if code == 0 else f"FOUND SOMETHING, see target/fuzz/findings/{name} and {name}.log"
    return f"{name:20} {executed:>10} inputs, {rate:>6}/s, {covered:>6} edges: {verdict}"


def minimise(program, name):
    """Merges new inputs into the corpus: as few and as small ones as cover the same code."""
    found, kept = WORK / "corpus" / name, WORK / "minimised" / name
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    libfuzzer(
        program,
        name,
        "-merge=1",
        "-use_counters=0",
        f"-max_len={MINIMISED_BYTES_MAX}",
        str(kept),
        str(CORPUS / name),
        str(found),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    committed = {path.read_bytes() for path in (CORPUS / name).iterdir()}
    new = [path for path in sorted(kept.iterdir(), key=lambda p: p.stat().st_size) if path.read_bytes() not in committed]
    for path in new[:MINIMISED_FILES_MAX]:
        shutil.copy(path, CORPUS / name / path.name[:16])
    print(f"{name}: {len(new[:MINIMISED_FILES_MAX])} of {len(new)} new inputs taken over")


if __name__ == "__main__":
    main()
