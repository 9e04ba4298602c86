# Running programs and saying what went wrong.
#
# One error type for everything a person can do something about; it carries the sentence that is printed. All waiting
# goes through until(), so no loop in the lab is without a deadline.
import fcntl
import os
import subprocess
import sys
import time


class LabError(Exception):
    """Something the user can act upon; the text says what."""


def say(text):
    print(f"lab: {text}", file=sys.stderr, flush=True)


def run(*argv, timeout=60, check=True, **options):
    """Runs a program to its end and returns the CompletedProcess; its output is captured as text."""
    options.setdefault("stdin", subprocess.DEVNULL if "input" not in options else None)
    if options["stdin"] is None:
        del options["stdin"]
    try:
        done = subprocess.run([str(a) for a in argv], timeout=timeout, text=True, capture_output=True, **options)
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed here")
    except subprocess.TimeoutExpired:
        raise LabError(f"'{' '.join(map(str, argv))}' did not end within {timeout} s")
    if check and done.returncode != 0:
        told = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise LabError(f"'{' '.join(map(str, argv))}' failed with {done.returncode}: " + "\n  ".join(told[-15:]))
    return done


def until(condition, timeout, what, step=0.02):
    """Polls condition until it is true (its value is returned) or the deadline has passed (LabError)."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise LabError(f"waited {timeout} s in vain for {what() if callable(what) else what}")
        time.sleep(step)


class Lock:
    """A file lock that ends with the process, so that a killed lab never leaves one behind."""

    def __init__(self, path, busy=None):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.path, self.busy = path, busy

    def __enter__(self):
        self.file = open(self.path, "a")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if self.busy:
                say(self.busy)
            fcntl.flock(self.file, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_):
        self.file.close()


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)


def read(path):
    with open(path) as f:
        return f.read()
