#!/bin/sh
# build.sh [OUT]: makes thermal.wasm of thermal.c; without OUT the module that ships, pipelines/udf/thermal.wasm.
# Needs clang and lld (`apt install clang lld`, or any clang with the wasm32 target). No library.
set -e
cd "$(dirname "$0")"
clang --target=wasm32 -O2 -nostdlib -ffreestanding -fno-math-errno -ffp-contract=off \
  -Wall -Wextra -Werror -Wl,--no-entry -Wl,--strip-all -Wl,-z,stack-size=16384 \
  -o "${1:-../../../pipelines/udf/thermal.wasm}" thermal.c
