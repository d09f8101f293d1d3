#!/bin/sh
# Compile the programs: build.sh DIRECTORY [FLAG...]. A warning is an error.
set -eu
directory=$1
shift
cd "$(dirname "$0")"
mkdir -p "$directory"
for source in *.c; do
    clang -std=gnu17 -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Wshadow -Werror -I"/usr/include/$(gcc -print-multiarch)" "$@" \
        -c "$source" -o "$directory/${source%.c}.o"
done
