"""Breaks each invariant on purpose and asks the tests whether they notice.

Every `*.mutant` beside this script is one breakage: a head, then the changes.

    Invariant: 3
    Breaks: a credential that may have been renewed counts as expired
    Tests: -p taskpass-engine simulation::histories lost_renewal

    In: broker/engine fn Engine::expire
    - let lives_on = credential.expires_at > self.now() || credential.renewals_unanswered > 0;
    + let lives_on = credential.expires_at > self.now();

`Tests` are the arguments of nextest with which at least one test must fail. `clippy -p …` instead
of them runs the lints. `Needs: unprivileged` marks a mutant that root would not notice.

`In` names a directory, usually a package, and an item anywhere below it. The item is `fn name` or
`fn Type::name`; where a type has several methods of that name, `fn <Type as Trait>::name`. Outside
of functions it is `const NAME`, `struct Name`, `impl Trait for Type`, `use path::prefix` and the
like. Its attributes belong to an item. Where two free functions have the same name, name the file
instead of the directory. `In: some/Cargo.toml file` is a whole file.

The lines with `-` must occur exactly once in the item. The lines with `+` take their place; there
may be none. A blank line, or a `-` after a `+`, begins the next change in the same item. White
space, line breaks, comments and trailing commas do not count, and a line need not be whole:
`- self.file.sync_data()` will do. Give the fewest words that are unique in the item, so that the
mutant still fits when a name beside them changes.

If end-to-end tests are among the tests, the programs are built first. The mutants are applied one
after the other to a copy of the tree in target/mutants; the checkout is never touched. The same
tests run once on the unbroken copy, because a test that fails there proves nothing.

    mutants.py            run all and print the table; ends with 1 when one survives
    mutants.py 03 07      only those whose file name starts with one of the words
    mutants.py --check    only whether every mutant fits the tree and every invariant has one
"""

import dataclasses
import functools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time
import unittest

# Nothing compiled is left behind in the checkout.
sys.dont_write_bytecode = True
import placing

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "target" / "mutants"
TREE = WORK / "tree"
LOGS = WORK / "logs"

INVARIANTS = range(1, 17)
# Consent of people comes with approvals; until then there is nothing that could be broken.
NOT_BUILT = {11: "approvals are not part of the broker yet"}

UNTOLD = "not run as root"
# The exit code of nextest when a test failed; any other is a broken build.
TESTS_FAILED = 100
LINTED = re.compile(r"^error: (use of a disallowed .+)$", re.MULTILINE)
HEAD = re.compile(r"^(Invariant|Breaks|Tests|Needs): (.+)$", re.MULTILINE)
FAILED = re.compile(
    r"^ +(?:TRY \d+ )?(?:FAIL|TIMEOUT|SIG[A-Z]+|LEAK-FAIL) +\[[^\]]*\] (?:\([^)]*\) )?(.+)$",
    re.MULTILINE,
)


IN = re.compile(r"^In: (?P<path>\S+) (?P<kind>[a-z]+)(?: (?P<name>.+))?$")


@dataclasses.dataclass
class Mutant:
    path: pathlib.Path
    invariant: int
    breaks: str
    tests: str
    needs: str
    changes: list

    @property
    def name(self):
        return self.path.stem

    @property
    def can_be_told(self):
        return self.needs != "unprivileged" or os.geteuid() != 0


def main():
    arguments = sys.argv[1:]
    mutants = [read(path) for path in sorted(HERE.glob("*.mutant"))]
    require_every_invariant(mutants)
    if arguments == ["--check"]:
        check(mutants)
        return
    if arguments:
        mutants = [m for m in mutants if m.name.startswith(tuple(arguments))]
    if not mutants:
        sys.exit("mutants: no mutant has a name that starts with these words; `ls tests/mutants` lists them")
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
    head, _, body = path.read_text(encoding="utf-8").partition("\n\n")
    if alien := [line for line in head.splitlines() if not HEAD.match(line)]:
        sys.exit(f"mutants: {path.name}: `{alien[0]}` is not a line of a head")
    head = dict(HEAD.findall(head))
    if missing := {"Invariant", "Breaks", "Tests"} - head.keys():
        sys.exit(f"mutants: {path.name} does not say: {', '.join(sorted(missing))}")
    try:
        changes = read_changes(body)
    except ValueError as error:
        sys.exit(f"mutants: {path.name}: {error}")
    return Mutant(path, int(head["Invariant"]), head["Breaks"], head["Tests"], head.get("Needs", ""), changes)


def read_changes(body):
    changes, place, find, put = [], None, [], []
    # The blank line at the end finishes the last change.
    for line in [*body.splitlines(), ""]:
        if (find or put) and (not line or line.startswith("In: ") or (line.startswith("-") and put)):
            if place is None or not find:
                raise ValueError(f"`{(find + put)[0].strip()}` has no `In` or no line with `-` before it")
            changes.append(placing.Change(place, "\n".join(find), "\n".join(put)))
            find, put = [], []
        if not line:
            continue
        if found := IN.match(line):
            place = placing.Place(found["path"], found["kind"], found["name"] or "")
            if place.kind not in placing.KINDS or (place.kind == "file") != (not place.name):
                raise ValueError(f"`{line}` does not name an item")
        elif line.startswith("-"):
            find.append(line[1:].removeprefix(" "))
        elif line.startswith("+"):
            put.append(line[1:].removeprefix(" "))
        else:
            raise ValueError(f"`{line}` begins with none of `In: `, `-` and `+`")
    if not changes:
        raise ValueError("it changes nothing")
    return changes


def check(mutants):
    tests = unittest.defaultTestLoader.discover(str(HERE), "*_test.py")
    if not unittest.TextTestRunner(verbosity=0).run(tests).wasSuccessful():
        sys.exit("mutants: the script itself is broken")
    complaints = []
    for mutant in mutants:
        try:
            broken(ROOT, mutant)
        except placing.DoesNotFit as error:
            complaints.append(f"{mutant.path.name} does not fit the tree: {error}")
    if complaints:
        sys.exit("\n".join(f"mutants: {complaint}" for complaint in complaints))
    print(f"mutants: all {len(mutants)} fit the tree")


def broken(tree, mutant):
    """The texts of the files that the mutant touches, as it leaves them."""
    texts = {}
    for change in mutant.changes:
        file, text = placing.apply(change, placing.Tree(tree, tracked(), texts))
        texts[file] = text
    return texts


@functools.cache
def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    names = [name.decode() for name in listed.split(b"\0") if name]
    return [name for name in names if (ROOT / name).is_file()]


def require_every_invariant(mutants):
    covered = {mutant.invariant for mutant in mutants}
    if missing := [n for n in INVARIANTS if n not in covered and n not in NOT_BUILT]:
        sys.exit(f"mutants: no mutant breaks invariant {', '.join(map(str, missing))}")


def copy_tree():
    """Brings the copy to the state of the checkout. A file that did not change keeps its time, so
    that cargo does not build it again."""
    wanted = set(tracked())
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
    try:
        texts = broken(TREE, mutant)
    except placing.DoesNotFit as error:
        sys.exit(f"mutants: {mutant.path.name} does not fit the tree: {error}")
    for name, text in texts.items():
        (TREE / name).write_text(text, encoding="utf-8")
    try:
        code, output, took = run_tests(mutant.tests)
    finally:
        for name in texts:
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
        nextest = ["cargo-nextest", "nextest", "run", "--locked", "--all-features", "--no-fail-fast"]
        commands = [[*nextest, *shlex.split(tests)]]
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
        first = f"{noticed[0]}" if noticed else "no test"
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
