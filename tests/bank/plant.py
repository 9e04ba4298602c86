# Planting: the sources of this checkout, copied, with every bug of the bank in them and none awake.
#
# A bug is a small substitution that is described outside the sources (bugs/*.bugs), so that production code never hears
# of it. In the text that takes its place, BUG is true when this very bug was chosen at run time, so one build holds them
# all; a whole tree is copied, with its meson files, so every program of the suite exists a second time over the planted
# sources and can be a finder.
#
# What is to be replaced is compared word by word, not space by space: wrapping lines anew disturbs nobody. It must be
# there exactly once, in the function that is named if one is. When it is not, the code under it has changed: the message
# says which bug wants to be looked at, and nothing is built.
import os
import re
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
KEYS = ("bug", "rule", "trap", "by", "in", "replace", "with")


class BankError(Exception):
    """Told to the person in front of the screen as it is."""


class Edit:
    def __init__(self, place):
        path, _, function = place.partition(",")
        self.path = path.strip()
        self.function = function.strip().removesuffix("()")
        self.old = self.new = None


class Bug:
    def __init__(self, name, where):
        self.name = name
        self.where = where
        self.rule = self.trap = ""
        self.by = []
        self.edits = []
        self.number = 0


def bugs():
    """All bugs of the bank, in the order of the files and of what stands in them."""
    found = []
    folder = f"{HERE}/bugs"
    for name in sorted(os.listdir(folder), key=lambda n: (n != "raft.bugs", n)):
        if name.endswith(".bugs"):
            with open(f"{folder}/{name}") as f:
                found += parse(f.read(), f"tests/bank/bugs/{name}")
    names = [b.name for b in found]
    for name in names:
        if names.count(name) > 1:
            raise BankError(f"two bugs are called {name}")
    for number, bug in enumerate(found, 1):
        bug.number = number
    return found


def parse(text, where):
    found = []
    for key, value, line in fields(text, where):
        place = f"{where}:{line}"
        if key == "bug":
            if not re.fullmatch(r"[a-z0-9-]+", value):
                raise BankError(f"{place}: '{value}' is no name; small letters, digits and '-' make one")
            found.append(Bug(value, place))
            continue
        if not found:
            raise BankError(f"{place}: '{key}:' before the first 'bug:'")
        bug = found[-1]
        if key in ("rule", "trap"):
            setattr(bug, key, value)
        elif key == "by":
            bug.by.append(value)
        elif key == "in":
            bug.edits.append(Edit(value))
        elif not bug.edits:
            raise BankError(f"{place}: '{key}:' before 'in:'")
        else:
            setattr(bug.edits[-1], "old" if key == "replace" else "new", value)
    for bug in found:
        whole = bug.rule and bug.trap and bug.by and bug.edits
        if not whole or any(not e.old or e.new is None for e in bug.edits):
            raise BankError(f"{bug.where}: {bug.name} lacks one of {', '.join(KEYS)}")
        if not any(re.search(r"\bBUG\b", e.new) for e in bug.edits):
            raise BankError(f"{bug.where}: {bug.name} never says BUG, so it would always be awake")
    return found


def fields(text, where):
    """(key, value, line) for each "key: value"; a line that begins with a space goes on with the one before."""
    current = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            continue
        if not line.strip() or line.startswith(" "):
            if current and line.strip():
                current[1] += "\n" + line.strip()
            continue
        if current:
            yield tuple(current)
        key, colon, value = line.partition(":")
        if not colon or key not in KEYS:
            raise BankError(f"{where}:{number}: '{line[:40]}' begins with none of {', '.join(KEYS)}")
        current = [key, value.strip(), number]
    if current:
        yield tuple(current)


def pattern(text):
    """A regular expression that finds the words of the text, whatever space is between them."""
    words = re.findall(r'"(?:[^"\\]|\\.)*"|\w+|[^\w\s]', text)
    found = r"\s*".join(re.escape(w) for w in words)
    if re.match(r"\w", words[0]):
        found = r"(?<!\w)" + found
    if re.search(r"\w$", words[-1]):
        found += r"(?!\w)"
    return re.compile(found)


def function_span(text, name):
    """Where the definition of a function lies: from a line without indent that names it to the next brace in the first
    column."""
    spans = []
    for m in re.finditer(rf"^[a-zA-Z_][^\n;]*\b{re.escape(name)}\((?:[^;{{]*?)\) {{$.*?^}}", text, re.M | re.S):
        spans.append(m.span())
    return spans


def places(text, bug, edit):
    """The (from, to) of the one place that the edit means."""
    advice = (f"Look at what became of the rule \"{bug.rule}\" and change 'in:', 'replace:' and 'with:' at {bug.where} "
              f"so that the bug takes it out again; when the rule is gone, remove the bug.")
    start, end = 0, len(text)
    if edit.function:
        spans = function_span(text, edit.function)
        if len(spans) != 1:
            raise BankError(f"bug {bug.name}: {edit.path} has {len(spans)} functions {edit.function}(). {advice}")
        start, end = spans[0]
    found = [m.span() for m in pattern(edit.old).finditer(text, start, end)]
    if len(found) != 1:
        where = edit.path + (f", {edit.function}()" if edit.function else "")
        raise BankError(f"bug {bug.name}: the text is there {len(found)} times instead of once in {where}:\n"
                        f"    {edit.old}\n{advice}")
    return found[0]


def plant(bugs, read):
    """{path: text} of all files that hold bugs. Lines keep their numbers, so that asserts name the place in the
    sources."""
    edits, faults = {}, []
    for bug in bugs:
        for edit in bug.edits:
            edits.setdefault(edit.path, []).append((bug, edit))
    planted = {}
    for path, wanted in edits.items():
        text = read(path)
        if text is None:
            faults.append(f"bug {wanted[0][0].name}: there is no file {path}")
            continue
        spans = []
        for bug, edit in wanted:
            try:
                spans.append((places(text, bug, edit), bug, edit))
            except BankError as e:
                faults.append(str(e))
        spans.sort(key=lambda span: span[0])
        for (one, a, _), (other, b, _) in zip(spans, spans[1:]):
            if other[0] < one[1]:
                faults.append(f"bugs {a.name} and {b.name} replace the same words of {path}: make one of them smaller")
        parts, at = [], 0
        for (start, end), bug, edit in spans:
            new = re.sub(r"\bBUG\b", f"(bank_bug == {bug.number})", " ".join(edit.new.split("\n")))
            parts += [text[at:start], new, "\n" * text.count("\n", start, end)]
            at = end
        parts.append(text[at:])
        planted[path] = 'extern int bank_bug;\n#line 1 "' + path + '"\n' + "".join(parts)
    if faults:
        raise BankError("\n".join(faults))
    return planted


def read(path):
    try:
        with open(f"{CHECKOUT}/{path}") as f:
            return f.read()
    except FileNotFoundError:
        return None


def misplanted():
    """What the planter took though it should not have: a bug must never sit anywhere else than where it was meant to."""
    source = "static int f(void) {\n        return a + b;\n}\n\nint g(int a,\n      int b) {\n        return a +\n               b;\n}\n"
    bug = "bug: x\nrule: y\ntrap: z\nby: sim\nin: f.c{}\nreplace: {}\nwith: {}\n"
    taken = []
    for place, old, new in (("", "a + b", "BUG"), (", h()", "a + b", "BUG"), (", f()", "a - b", "BUG"),
                            (", f()", "urn a", "BUG"), (", f()", "a + b", "0")):
        try:
            plant(parse(bug.format(place, old, new), "self"), lambda _: source)
            taken.append(f"the planter takes '{old}' in f.c{place} for '{new}'")
        except BankError:
            pass
    planted = plant(parse(bug.format(", g()", "a + b;", "BUG;"), "self"), lambda _: source)["f.c"]
    if planted.split("\n", 2)[2] != source.replace("a +\n               b;", "(bank_bug == 0);\n"):
        taken.append(f"the planter makes this of g():\n{planted}")
    twice = parse(bug.format(", f()", "a + b", "BUG") + bug.format(", f()", "return a", "BUG"), "self")
    try:
        plant(twice, lambda _: source)
        taken.append("the planter puts two bugs in one place")
    except BankError:
        pass
    return taken


def bank_source(bugs):
    names = "".join(f'        "{b.name}",\n' for b in bugs)
    return f"""/* Which bug is awake: the one that the environment names. Made by tests/bank/plant.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int bank_bug;

static const char *const names[] = {{
{names}}};

__attribute__((constructor)) static void bank_choose(void) {{
        const char *chosen = getenv("TREATY_BUG");
        if (!chosen || !*chosen)
                return;
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
                if (strcmp(names[i], chosen) == 0)
                        bank_bug = (int)i + 1;
        if (bank_bug == 0) {{
                fprintf(stderr, "there is no bug '%s'\\n", chosen);
                _Exit(2);
        }}
}}
"""


def tracked():
    """What belongs to the checkout, new files included that nobody committed yet."""
    done = subprocess.run(["git", "-C", CHECKOUT, "-c", f"safe.directory={CHECKOUT}", "ls-files", "-co",
                           "--exclude-standard"], capture_output=True, text=True)
    if done.returncode != 0:
        raise BankError(f"git cannot list the files of {CHECKOUT}: {done.stderr.strip()}")
    return [p for p in done.stdout.splitlines() if os.path.isfile(f"{CHECKOUT}/{p}")]


def copy(to, bugs):
    """The checkout with the bugs, in the directory `to`. A file that is as it was keeps its time, so that little is
    compiled anew."""
    planted = plant(bugs, read)
    planted["agent/base/bank.c"] = bank_source(bugs)
    meson = read("agent/base/meson.build")
    if meson.count("'bytes.c',") != 1:
        raise BankError("agent/base/meson.build does not name 'bytes.c', beside which the bank puts its own file")
    planted["agent/base/meson.build"] = meson.replace("'bytes.c',", "'bank.c', 'bytes.c',")

    kept = set(planted)
    for path, text in planted.items():
        write(f"{to}/{path}", text.encode(), 0o644)
    for path in tracked():
        if path in kept:
            continue
        kept.add(path)
        with open(f"{CHECKOUT}/{path}", "rb") as f:
            write(f"{to}/{path}", f.read(), os.stat(f"{CHECKOUT}/{path}").st_mode & 0o777)
    for folder, _, files in os.walk(to):
        for name in files:
            path = os.path.join(folder, name)
            if os.path.relpath(path, to) not in kept:
                os.unlink(path)


def write(path, data, mode):
    try:
        with open(path, "rb") as f:
            if f.read() == data:
                return
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)
    os.chmod(path, mode)
