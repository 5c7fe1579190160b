"""Finds the code that a mutant replaces: by the item it stands in, never by its line.

Code is compared token by token. White space, line breaks, comments and trailing commas do not
count, so neither rustfmt nor a reworded comment breaks a mutant. `mutants.py` says how a place is
written.
"""

import dataclasses
import difflib
import functools
import pathlib
import re
import textwrap

RUST = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<token>
        [bc]?r(?P<hashes>\#*)".*?"(?P=hashes)      # raw string
        |[bc]?"(?:\\.|[^"\\])*"                    # string
        |b?'(?:\\(?:x[0-9a-fA-F]{2}|u\{[^}]*\}|.)|[^\\'])'  # character, before lifetimes
        |'\w+  # lifetime
        |(?:r\#)?\w+
        |\S)""",
    re.VERBOSE | re.DOTALL,
)
TOML = re.compile(r"""(?P<comment>\#[^\n]*)|(?P<token>"(?:\\.|[^"\\])*"|'[^'\n]*'|\w+|\S)""")

OPEN, CLOSE = "([{", ")]}"
WORD = re.compile(r"\w+$")
# `file` is a whole file.
KINDS = ("fn", "const", "static", "type", "use", "struct", "enum", "union", "trait", "impl", "mod", "file")
END_IN_SEMICOLON = ("const", "static", "type", "use")


class DoesNotFit(Exception):
    """The place is missing, or found more than once. The text names the nearest candidate."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where to replace: `path` is a directory or file, `kind` and `name` are the item below it."""

    path: str
    kind: str
    name: str

    def __str__(self):
        return f"{self.path} {self.kind} {self.name}".rstrip()


@dataclasses.dataclass(frozen=True)
class Change:
    place: Place
    find: str
    put: str


@dataclasses.dataclass
class Code:
    """A text and its tokens, each with the offsets where it begins and ends."""

    text: str
    tokens: list
    starts: list
    ends: list

    def line(self, token):
        return self.text.count("\n", 0, self.starts[token]) + 1


@dataclasses.dataclass
class Item:
    """An item is the tokens from `first`, its attributes included, up to `end`."""

    file: str
    code: Code
    kind: str
    names: frozenset
    first: int
    head: int
    end: int

    def __str__(self):
        return f"`{self.kind} {max(self.names, key=len)}` at {self.file}:{self.code.line(self.head)}"


class Tree:
    """The sources below a directory. `texts` stand for what the same mutant has already changed."""

    def __init__(self, root, files, texts=()):
        self.root, self.files, self.texts = pathlib.Path(root), files, dict(texts)

    def read(self, file):
        if file not in self.texts:
            return on_disk(self.root / file)
        return self.texts[file]

    def below(self, path):
        return [f for f in self.files if f == path or f.startswith(path.rstrip("/") + "/")]

    def items(self, path, name=""):
        """The items of the Rust files below the path. Skips files without the name's last word."""
        last = re.findall(r"\w+", name)[-1:]
        rust = (f for f in self.below(path) if f.endswith(".rs"))
        return [item for f in rust if all(w in self.read(f) for w in last) for item in scan(self.read(f), f)]

    def all_items(self):
        return [item for f in self.files if f.endswith(".rs") for item in scan(self.read(f), f)]


@functools.lru_cache(maxsize=None)
def on_disk(path):
    return path.read_text(encoding="utf-8")


def apply(change, tree):
    """The file that the change touches, and its text with the change made."""
    item, first, end = place(change, tree)
    code = item.code
    begin, stop = code.starts[first], code.ends[end - 1]
    line_begin = code.text.rfind("\n", 0, begin) + 1
    indent = re.match(r"\s*", code.text[line_begin:begin])[0]
    put = textwrap.indent(textwrap.dedent(change.put), indent).removeprefix(indent)
    return item.file, code.text[:begin] + put + code.text[stop:]


def place(change, tree):
    """The item, and the tokens in it from the first up to the end that are to be replaced."""
    wanted = change.place
    items = items_named(wanted, tree)
    if not items:
        raise DoesNotFit(f"{wanted}: no such item; {nearest_item(change, tree)}")
    if len(items) > 1:
        raise DoesNotFit(f"{wanted}: found {len(items)} times: {', '.join(map(str, items))}")
    (item,) = items
    found = occurrences(change, item)
    if not found:
        raise DoesNotFit(f"{wanted}: the lines are not in it; {nearest_lines(change, item, tree)}")
    if len(found) > 1:
        lines = ", ".join(str(item.code.line(first)) for first, _ in found)
        raise DoesNotFit(f"{wanted}: the lines are found {len(found)} times: {item.file}, lines {lines}")
    return item, *found[0]


def items_named(wanted, tree):
    if wanted.kind == "file":
        return [whole_file(tree, f) for f in tree.below(wanted.path) if f == wanted.path]
    return [item for item in tree.items(wanted.path, wanted.name) if matches(item, wanted)]


def matches(item, wanted):
    return item.kind == wanted.kind and squeeze(wanted.name) in item.names


def whole_file(tree, file):
    code = tokenize(tree.read(file), file)
    return Item(file, code, "file", frozenset([file]), 0, 0, len(code.tokens))


def occurrences(change, item):
    code, find = item.code, pattern(change, item.file)
    plain = [i for i in range(item.first, item.end) if not is_trailing_comma(code.tokens, i)]
    tokens = [folded(code.tokens[i]) for i in plain]
    found = []
    for at in range(len(tokens) - len(find) + 1):
        if tokens[at : at + len(find)] == find:
            first, end = plain[at], plain[at + len(find) - 1] + 1
            if change.find.rstrip().endswith(","):
                # `pattern` left this comma out: before a bracket the source may lack it.
                after = code.tokens[end] if end < item.end else ""
                if after != "," and (not after or after not in CLOSE):
                    continue
                end += after == ","
            found.append((first, end))
    return found


def pattern(change, file):
    tokens = tokenize(change.find, file).tokens
    if tokens and tokens[-1] == ",":
        tokens = tokens[:-1]
    if not tokens:
        raise DoesNotFit(f"{change.place}: there are no lines to find")
    return [folded(t) for i, t in enumerate(tokens) if not is_trailing_comma(tokens, i)]


def is_trailing_comma(tokens, i):
    return tokens[i] == "," and i + 1 < len(tokens) and tokens[i + 1] in CLOSE


def folded(token):
    """A string that goes on in the next line is the same string."""
    return re.sub(r"\\\n\s*", "", token) if token.endswith('"') else token


def nearest_item(change, tree):
    name, kind = change.place.name, change.place.kind
    everywhere = [item for item in tree.all_items() if item.kind == kind]
    last = squeeze(name).rsplit("::", 1)[-1]
    namesakes = [item for item in everywhere if last in item.names]
    with_lines = [item for item in everywhere if occurrences(change, item)]
    best = [item for item in namesakes if item in with_lines] or with_lines or namesakes
    if not best:
        near = [item for item in everywhere if item.file.startswith(change.place.path)]
        by_name = {name: item for item in near for name in item.names}
        best = [by_name[name] for name in difflib.get_close_matches(last, by_name, 1, 0)]
    if not best:
        return "nothing is near"
    why = " with these lines" if best[0] in with_lines else ""
    return f"nearest{why}: {', '.join(map(str, best[:3]))}"


def nearest_lines(change, item, tree):
    kind = change.place.kind
    moved = [other for other in tree.items(change.place.path) if other.kind == kind and occurrences(change, other)]
    if moved:
        return f"nearest with these lines: {', '.join(map(str, moved[:3]))}"
    wanted = change.find.strip().splitlines()
    first, last = item.code.line(item.first), item.code.line(item.end - 1)
    lines = item.code.text.splitlines()[first - 1 : last]
    windows = ["\n".join(lines[at : at + len(wanted)]) for at in range(max(1, len(lines) - len(wanted) + 1))]
    squeezed = squeeze(change.find)
    best = max(
        range(len(windows)),
        key=lambda at: difflib.SequenceMatcher(None, squeezed, squeeze(windows[at]), autojunk=False).ratio(),
    )
    near = textwrap.indent(textwrap.dedent(windows[best]), "    ")
    return f"nearest, {item.file}:{first + best}:\n{near}"


def squeeze(text):
    return re.sub(r"\s+", " ", re.sub(r"\s*(\W)\s*", r"\1", text)).strip()


@functools.lru_cache(maxsize=None)
def tokenize(text, file):
    tokens, starts, ends = [], [], []
    for found in (RUST if file.endswith(".rs") else TOML).finditer(text):
        if found["comment"] is None:
            tokens.append(found[0])
            starts.append(found.start())
            ends.append(found.end())
    return Code(text, tokens, starts, ends)


@functools.lru_cache(maxsize=None)
def scan(text, file):
    code = tokenize(text, file)
    tokens = code.tokens
    partner = partners(tokens)
    items = []
    for at in range(len(tokens) - 1):
        kind = tokens[at]
        if kind not in KINDS or not begins_item(tokens, at):
            continue
        end = end_of(tokens, partner, at)
        names = names_of(tokens, at)
        if end is not None and names:
            items.append(Item(file, code, kind, names, start_of(tokens, partner, at), at, end))
    # A function is also known by the type or trait in which it stands.
    holders = [item for item in items if item.kind in ("impl", "trait")]
    for item in items:
        if item.kind in ("fn", "const", "type"):
            inside = [h for h in holders if h.first < item.first and item.end <= h.end]
            item.names |= {f"{h}::{n}" for holder in inside[-1:] for h in qualifiers(holder) for n in item.names}
    return items


def partners(tokens):
    """For each bracket its counterpart, by their indices."""
    partner, stack = {}, []
    for at, token in enumerate(tokens):
        if token in OPEN:
            stack.append(at)
        elif token in CLOSE and stack:
            opened = stack.pop()
            partner[opened], partner[at] = at, opened
    return partner


def begins_item(tokens, at):
    """False in `*const T`, `fn(u8) -> u8`, `<const N: usize>` and `-> impl Fn()`."""
    kind, following = tokens[at], tokens[at + 1]
    before = tokens[at - 1] if at else ";"
    if kind == "impl":
        return before in (*"};{]", "unsafe")
    if kind == "const" and (before in "*<,&" or following in ("fn", "unsafe", "async", "extern")):
        return False
    if before == ".":
        return False
    return bool(WORD.match(following)) or kind == "use"


def end_of(tokens, partner, at):
    """One beyond the item's last token, which is a semicolon or the brace that closes its body."""
    i = at
    while i < len(tokens):
        token = tokens[i]
        if token == ";":
            return i + 1
        if token in CLOSE:
            return None
        if token in OPEN:
            closed = partner.get(i)
            if closed is None:
                return None
            if token == "{" and tokens[at] not in END_IN_SEMICOLON:
                return closed + 1
            i = closed
        i += 1
    return None


def start_of(tokens, partner, at):
    """Where the item begins, with its attributes and its visibility."""
    i = at
    while i > 0:
        before = tokens[i - 1]
        if before in ";{}":
            break
        i = partner[i - 1] if before in ")]" and i - 1 in partner else i - 1
    return i


def names_of(tokens, at):
    if tokens[at] not in ("impl", "use"):
        return frozenset([tokens[at + 1]])
    stop = at + 1
    while stop < len(tokens) and tokens[stop] not in ("{", ";", "where"):
        stop += 1
    head = tokens[at + 1 : stop]
    if tokens[at] == "use":
        return frozenset(["".join(head).removesuffix("::")])
    return frozenset([squeeze(" ".join(without_generics(head)))])


def without_generics(tokens):
    """An impl's head in words: `<'a, T> fmt::Debug for Held<'a, T>` becomes `Debug for Held`."""
    kept, depth = [], 0
    for i, token in enumerate(tokens):
        if token == "<":
            depth += 1
        elif token == ">" and tokens[i - 1] not in "-=":
            depth -= 1
        elif depth == 0:
            kept.append(token)
    names = []
    for i, token in enumerate(kept):
        is_path = i + 1 < len(kept) and kept[i + 1] == ":"
        if WORD.match(token) and not is_path and token not in ("dyn", "mut", "const"):
            names.append(token)
    return names


def qualifiers(holder):
    """The qualifiers of a method's name: `Held`, and `<Held as Debug>` in an impl of a trait."""
    (name,) = holder.names
    trait, _, held = name.rpartition(" for ")
    return [held, squeeze(f"<{held} as {trait}>")] if trait else [held]
