#!/bin/sh
# At most ten minutes on one GPU: tests, Triton against torch, a wide training step, and streaming end
# to end on a random-weight pair of Gemma-2-2B's shape. No GPU has run it yet.
#
#     sh benchmarks/gpu.sh OUT
#
# OUT/*.json are the figures to publish; compare OUT/plan.json with OUT/run.
set -eu
OUT=${1:?name a folder for the results}
PYTHON=${PYTHON:-python}
mkdir -p "$OUT"

$PYTHON -m pytest -q tests/dictionaries/test_triton_kernels.py tests/dictionaries/test_engine.py \
    > "$OUT/tests.txt" 2>&1 || echo "tests failed: see $OUT/tests.txt"
timeout 90 $PYTHON benchmarks/wide_step.py --device cuda --kernels torch > "$OUT/step-torch.json"
timeout 90 $PYTHON benchmarks/wide_step.py --device cuda --kernels triton > "$OUT/step-triton.json"

# The pair has Gemma-2-2B's shape, random weights and the tiny tokenizer.
$PYTHON examples/gemma2_2b_base_chat/random_pair.py "$OUT/models"
SETTINGS=examples/gemma2_2b_base_chat/settings.json
SMALL="--text-tokens 400000 --gpu h100"
anaglyph plan "$OUT/models/base" "$OUT/models/tuned" --config $SETTINGS $SMALL --json > "$OUT/plan.json"
timeout 240 anaglyph diff "$OUT/models/base" "$OUT/models/tuned" --config $SETTINGS --device cuda \
    --data builtin:english --max-tokens 400000 --tokens 300000 --sample-tokens 50000 --window 65536 \
    --latents 16384 --causal-tokens 4096 --no-behaviour --trials 0 --out "$OUT/run" --json \
    > "$OUT/findings.json"
