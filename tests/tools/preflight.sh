#!/bin/sh
# Names the tools that are missing to build and test Taskpass, and how to get them. Changes nothing.
set -eu

missing=0

# lack WHAT HOW: report one missing thing with the way to install it.
lack() {
    printf 'missing: %s\n    %s\n' "$1" "$2" >&2
    missing=1
}

command -v cargo >/dev/null 2>&1 ||
    lack 'cargo' 'install Rust with rustup; rust-toolchain.toml names the version'

# ring compiles C and assembler, and rustc links with cc. A compiler without the headers of libc is
# not enough.
if ! printf '#include <stdlib.h>\nint main(void) { return 0; }\n' |
    "${CC:-cc}" -x c -o /dev/null - >/dev/null 2>&1; then
    lack "a working C compiler (\`${CC:-cc}\`)" \
        'Debian, Ubuntu: apt-get install gcc libc6-dev    Fedora: dnf install gcc glibc-devel'
fi

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
    lack 'python3, 3.10 or newer' \
        'Debian, Ubuntu: apt-get install python3 python3-venv    Fedora: dnf install python3'
fi

exit "$missing"
