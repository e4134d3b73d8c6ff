#!/usr/bin/env bash
# Prints the figures of docs/conversion.md: a ReLU network converted, and two spiking networks of its
# shape trained directly, on the digits, with three seeds. Two minutes of one core.
set -euo pipefail
folder=${1:-runs/conversion}
for seed in 0 1 2; do
    common=(
        --dataset digits --model vgg4 --width 0.5 --optimizer muon --batch-size 50 --epochs 8
        --weight-sum-cost 0 --l2-cost 0 --threads 1 --seed "$seed"
    )
    runs=$folder/seed-$seed
    ttfs-fast train "${common[@]}" --neuron relu-norm --lr 0.02 --out "$runs/relu"
    for dtype in float64 float32; do
        ttfs-fast convert "$runs/relu" --to "$runs/converted.safetensors" --dtype $dtype
    done
    ttfs-fast train "${common[@]}" --neuron horizon --lr 0.02 --weight-sum 4 --alpha 0.01 \
        --horizon-spread 0.002 --logit-scale 500 --out "$runs/horizon"
    ttfs-fast train "${common[@]}" --neuron spiking --lr 0.01 --weight-sum 4 --weight-norm 3 \
        --alpha 1 --polarity bright-first --logit-scale 10 --out "$runs/spiking"
    for network in converted.safetensors horizon spiking; do
        ttfs-fast eval --weights "$runs/$network" --count-operations 20
    done
done
