#!/bin/sh
# Usage: prerequisites.sh PYTHON. Says in one plain sentence what this machine lacks, and fails.
python="$1"

lacks() {
    echo "neurosens_fast needs $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || lacks "Python 3.11 or later, but there is no command '$python' (set PYTHON=)."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    lacks "Python 3.11 or later, but '$python' is $("$python" -V 2>&1) (set PYTHON=)."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    lacks "Python's venv module, which '$python' lacks (on Debian and Ubuntu: apt install python3-venv)."
header=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"] + "/Python.h")')
[ -f "$header" ] ||
    lacks "Python's C headers, but there is no $header (on Debian and Ubuntu: apt install python3-dev)."
command -v "${CXX:-g++}" >/dev/null 2>&1 ||
    lacks "a C++ compiler, but there is no command '${CXX:-g++}' (on Debian and Ubuntu: apt install g++)."
