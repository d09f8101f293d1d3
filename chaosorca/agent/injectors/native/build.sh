#!/bin/sh
# Build the tracer: build.sh OUTPUT [FLAG...]. A warning is an error.
set -eu
output=$1
shift
cd "$(dirname "$0")"
exec gcc -std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Werror "$@" -o "$output" *.c
