#!/bin/sh
# Prints where Chromium is: CHROMIUM, or what is called so on PATH. Says in one plain sentence if there is none, and fails.
if [ -n "$CHROMIUM" ]; then
    command -v "$CHROMIUM" && exit
    echo "tests of the page need Chromium, but there is no command '$CHROMIUM', which CHROMIUM names." >&2
    exit 1
fi
command -v chromium || command -v chromium-browser || command -v google-chrome || {
    echo "tests of the page need Chromium (on Debian: apt install chromium; or set CHROMIUM=)." >&2
    exit 1
}
