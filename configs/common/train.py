"""Settings of a run that every experiment has."""

train = dict(
    output_dir="output/run",
    init_checkpoint="",
    max_iter=90000,
    seed=0,
    device="auto",
    num_threads=0,  # torch's own choice
    channels_last=False,  # a memory layout that some processors prefer
    amp=dict(enabled=False, dtype="bfloat16"),
    ema=dict(enabled=False, decay=0.999),
    clip_norm=0.0,  # 0 does not clip
    checkpoint_period=5000,
    eval_period=0,  # 0 evaluates at the end only
    log_period=20,
    hooks=[],  # more of d2tiny.engine.hooks
)
