#!/usr/bin/env bash
# Makes benchmarks/gpu/pack, for a machine with Python 3.12, torch and transformers, and no network: wheels, and runs up to curate.
set -euo pipefail
cd "$(dirname "$0")/../.."
make env
python=$PWD/.venv/bin/python distill=$PWD/.venv/bin/distill pack=$PWD/benchmarks/gpu/pack
rm -rf "$pack" && mkdir -p "$pack/wheels" "$pack/wide"

# Sources without a wheel on the index are built here; DeepSpeed compiles its operations where they are used.
platforms=(); for glibc in 2_34 2_31 2_28 2_27 2_26 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
grep -v '^deepspeed==' benchmarks/gpu/pack.txt >"$pack/wheels.txt"
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
    --platform manylinux2014_x86_64 --dest "$pack/wheels" --requirement "$pack/wheels.txt"
DS_BUILD_OPS=0 "$python" -m pip wheel --quiet --no-deps --wheel-dir "$pack/wheels" \
    "$(grep '^deepspeed==' benchmarks/gpu/pack.txt)"
# The product's own name and version; its code is that of the checkout.
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$pack/wheels" .

# Curated examples with the teachers' signal, made on this CPU.
"$python" -m benchmarks.gpu.wide_model "$pack/wide"
cat >"$pack/jobs.json" <<'JOBS'
{
 "quickstart": {"job": "jobs/quickstart.yaml", "sets": ["train.workers=1", "train.global_batch=8"]},
 "wide": {"job": "benchmarks/gpu/wide.yaml", "sets": [], "gpu": ["train.student=benchmarks/gpu/pack/wide/student-gpu", "train.learning_rate=1e-3"]}
}
JOBS
for job in jobs/quickstart.yaml benchmarks/gpu/wide.yaml; do
    "$distill" run "$job" --until curate --runs "$pack/runs"
done
"$python" -m benchmarks.gpu.pack cut "$pack"
