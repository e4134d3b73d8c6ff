"""A small network with horizons on the embedded digits, and how it is trained."""

from ttfs_fast.training import TrainConfig

SMALL = TrainConfig(
    dataset="digits",
    model="vgg4",
    neuron="horizon",
    weight_sum=2.0,
    horizon_spread=0.001,
    width=0.5,
    alpha=0.01,
    logit_scale=1000.0,
    label_smoothing=0.1,
    optimizer="muon",
    momentum=0.95,
    lr=0.05,
    min_lr=1e-4,
    schedule="cosine",
    ema_decay=0.9,
    weight_sum_cost=0.0,
    l2_cost=0.0,
    epochs=3,
    batch_size=50,
    train_images=600,
    test_images=300,
    threads=1,
)
