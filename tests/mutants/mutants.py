"""Breaks each invariant on purpose and asks the tests whether they notice.

Every `*.patch` beside this script is one breakage. Its head says what it is:

    Invariant: 3
    Breaks: a probe that could not be made is taken for proof
    Tests: -p taskpass-broker revocation

`Tests` are the arguments of nextest that must go red; `clippy -p …` instead of them means the lints. `Needs: unprivileged`
stands where root could not tell the difference.
The programs are built first where the end-to-end tests are among them. The patches are applied one after the other to a copy of the
tree in target/mutants, so the checkout is never touched. The same tests run once on the unbroken
copy: a test that is red anyway proves nothing.

    mutants.py            run all and print the table; ends with 1 when one survives
    mutants.py 03 07      only those whose file name starts with one of the words
    mutants.py --check    only whether every patch still fits the tree, and every invariant has one
"""

import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "target" / "mutants"
TREE = WORK / "tree"
LOGS = WORK / "logs"

INVARIANTS = range(1, 14)
# Consent of people comes with approvals; until then there is nothing that could be broken.
NOT_BUILT = {11: "approvals are not part of the broker yet"}

UNTOLD = "not run as root"
# What nextest ends with when a test failed; everything else is a broken build.
TESTS_FAILED = 100
LINTED = re.compile(r"^error: (use of a disallowed .+)$", re.MULTILINE)
HEAD = re.compile(r"^(Invariant|Breaks|Tests|Needs): (.+)$", re.MULTILINE)
FAILED = re.compile(r"^ +(?:TRY \d+ )?(?:FAIL|TIMEOUT|SIG[A-Z]+|LEAK-FAIL) +\[[^\]]*\] (?:\([^)]*\) )?(.+)$", re.MULTILINE)


@dataclasses.dataclass
class Mutant:
    path: pathlib.Path
    invariant: int
    breaks: str
    tests: str
    needs: str

    @property
    def name(self):
        return self.path.stem

    @property
    def can_be_told(self):
        return self.needs != "unprivileged" or os.geteuid() != 0


def main():
    arguments = sys.argv[1:]
    mutants = [read(path) for path in sorted(HERE.glob("*.patch"))]
    require_every_invariant(mutants)
    if arguments == ["--check"]:
        for mutant in mutants:
            git_apply(ROOT, mutant, "--check")
        print(f"mutants: all {len(mutants)} patches fit the tree")
        return
    if arguments:
        mutants = [m for m in mutants if m.name.startswith(tuple(arguments))]
    if not mutants:
        sys.exit("mutants: no patch has a name that starts with these words; `ls tests/mutants` lists them")
    copy_tree()
    require_green(sorted({mutant.tests for mutant in mutants if mutant.can_be_told}))
    rows = []
    for number, mutant in enumerate(mutants, 1):
        if not mutant.can_be_told:
            rows.append((mutant, UNTOLD, [], 0))
            continue
        print(f"mutants: {number} of {len(mutants)}: {mutant.name} …", flush=True)
        rows.append((mutant, *judge(mutant)))
    report(rows)


def read(path):
    text = path.read_text(encoding="utf-8")
    head = dict(HEAD.findall(text.split("diff --git", 1)[0]))
    if missing := {"Invariant", "Breaks", "Tests"} - head.keys():
        sys.exit(f"mutants: {path.name} does not say: {', '.join(sorted(missing))}")
    return Mutant(path, int(head["Invariant"]), head["Breaks"], head["Tests"], head.get("Needs", ""))


def require_every_invariant(mutants):
    covered = {mutant.invariant for mutant in mutants}
    if missing := [n for n in INVARIANTS if n not in covered and n not in NOT_BUILT]:
        sys.exit(f"mutants: no patch breaks invariant {', '.join(map(str, missing))}")


def copy_tree():
    """Brings the copy to the state of the checkout; what did not change keeps its time, so cargo need not build it again."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    wanted = {name.decode() for name in listed.split(b"\0") if name}
    if TREE.exists():
        for path in [p for p in TREE.rglob("*") if p.is_file()]:
            if str(path.relative_to(TREE)) not in wanted:
                path.unlink()
    for name in wanted:
        restore(name)


def restore(name):
    source, copy = ROOT / name, TREE / name
    if not source.exists():
        copy.unlink(missing_ok=True)
        return
    if copy.exists() and copy.read_bytes() == source.read_bytes():
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    # Not the source's time: cargo must see that the file changed back.
    shutil.copyfile(source, copy)
    shutil.copymode(source, copy)


def require_green(selections):
    for tests in selections:
        print(f"mutants: unbroken: {tests} …", flush=True)
        code, output, _ = run_tests(tests)
        if code != 0:
            sys.stdout.write(output[-4000:])
            sys.exit(f"mutants: `{tests}` is red without a mutant; mend that first")


def judge(mutant):
    """Returns verdict, the first tests that noticed, and seconds."""
    git_apply(TREE, mutant)
    try:
        code, output, took = run_tests(mutant.tests)
    finally:
        for name in touched(mutant):
            restore(name)
    LOGS.mkdir(parents=True, exist_ok=True)
    (LOGS / f"{mutant.name}.log").write_text(output, encoding="utf-8")
    by_lint = is_lint(mutant.tests)
    found = LINTED.findall(output) if by_lint else FAILED.findall(output)
    noticed = list(dict.fromkeys(name.strip() for name in found))
    if code == 0:
        return "SURVIVED", [], took
    if noticed and (by_lint or code == TESTS_FAILED):
        return "caught", noticed, took
    return "DOES NOT BUILD", [], took


def is_lint(tests):
    return tests.startswith("clippy ")


def touched(mutant):
    return re.findall(r"^diff --git a/(\S+) ", mutant.path.read_text(encoding="utf-8"), re.MULTILINE)


def git_apply(tree, mutant, *options):
    done = subprocess.run(
        # Without the ceiling git would take the copy, which lies inside the checkout, for a part of it.
        ["git", "apply", "--whitespace=nowarn", *options, str(mutant.path)],
        cwd=tree,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"mutants: {mutant.path.name} does not fit the tree any more: {done.stderr.strip()}")


def run_tests(tests):
    began = time.monotonic()
    env = {
        **os.environ,
        "PATH": f"{ROOT / 'target' / 'tools' / 'bin'}:{os.environ['PATH']}",
        "CARGO_TERM_COLOR": "never",
    }
    # The tests look for the back ends where `make tools` puts them in a checkout.
    tools = TREE / "target" / "tools"
    tools.parent.mkdir(parents=True, exist_ok=True)
    if not tools.exists():
        tools.symlink_to(ROOT / "target" / "tools")
    if is_lint(tests):
        commands = [["cargo", *shlex.split(tests), "--locked", "--all-features", "--", "-D", "warnings"]]
    else:
        commands = [["cargo-nextest", "nextest", "run", "--locked", "--all-features", "--no-fail-fast", *shlex.split(tests)]]
    if "taskpass-tests" in tests:
        commands.insert(0, ["cargo", "build", "--locked", "--workspace", "--all-features", "--bins"])
    output, code = "", 0
    for command in commands:
        done = subprocess.run(command, cwd=TREE, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output, code = output + done.stdout, done.returncode
        if code != 0:
            break
    return code, output, time.monotonic() - began


def report(rows):
    lines = ["| invariant | what was broken | verdict | noticed by | s |", "| --- | --- | --- | --- | --- |"]
    for mutant, verdict, noticed, took in rows:
        first = f"{noticed[0]}" if noticed else "nobody"
        more = f" and {len(noticed) - 1} more" if len(noticed) > 1 else ""
        lines.append(f"| {mutant.invariant} | {mutant.breaks} | {verdict} | {first}{more} | {took:.0f} |")
    for number, why in NOT_BUILT.items():
        lines.append(f"| {number} | nothing | not built | {why} | |")
    text = "\n".join(lines)
    (WORK / "report.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    lost = [mutant.name for mutant, verdict, *_ in rows if verdict not in ("caught", UNTOLD)]
    if lost:
        sys.exit(f"mutants: not caught: {', '.join(lost)}; their output is in target/mutants/logs")
    print(f"mutants: all {len([row for row in rows if row[1] == 'caught'])} caught")


if __name__ == "__main__":
    main()
