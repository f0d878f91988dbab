# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # wgan-sweep in Python
#
# Two losses learn eight Gaussians in the plane. This takes about 20 seconds on a CPU. Everything that is trained lies
# in `runs` below the working directory: run this again, and nothing is trained.

# %%
import matplotlib.pyplot as plt

import wgan_sweep as ws

# %% [markdown]
# A sweep, as `wgan-sweep -m` runs it. It returns its runs in the order of their request.

# %%
COMMON = ["data=gaussians8", "model.dim=64", "model.latent_dim=16", "train.batch_size=64", "train.steps=200"]
COMMON += ["scorer.num_samples=300", "tracker=none", "device=cpu", "runs=runs"]
runs = ws.sweep("loss=wgan_gp,wgan_div", "seed=0", *COMMON, progress=False)
for run in runs:
    print(run.run_id, run.config.choices["loss"], run.record.status, f"W1 {run.record.scores['w1']:.3f}")

# %% [markdown]
# One more run, from a config that is changed in Python. `train` returns when it is done.

# %%
config = ws.compose("loss=wgan_div", "div.k=4", *COMMON)
config.train.steps = 100
longer = ws.train(config, progress=False)
config.train.steps = 150  # the run continues from its checkpoint
longer = ws.train(config, progress=False)
print(longer, longer.config.div)

# %% [markdown]
# Runs can be found again at any time, by their options and values.

# %%
divergences = ws.find_runs("runs", loss="wgan_div", status="done")
assert {run.run_id for run in divergences} == {runs[1].run_id, longer.run_id}
assert [run.run_id for run in ws.find_runs("runs", **{"div.k": [3, 4]})] == [longer.run_id]

# %% [markdown]
# Measurements as columns, ready for `pandas.DataFrame(columns)`.

# %%
columns = runs[1].metrics()
print({name: len(values) for name, values in columns.items()})

# %% [markdown]
# Samples of the generator's moving average: points `[500, 2]` here, uint8 images `[N, C, H, W]` otherwise.

# %%
run = ws.load_run(runs[1].path, device="cpu")
points = run.sample(500, seed=0)
print(points.shape, points.dtype, run.critic(points).mean())

# %%
figure, (curve, plane) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
curve.plot(columns["step"], columns["wasserstein"], ".-")
curve.set(xlabel="step", ylabel="Wasserstein estimate")
plane.scatter(*points.T, s=4)
plane.set(title=f"{run.run_id}, step {run.step}", aspect="equal")
figure.savefig("example.png")

# %% [markdown]
# A generator as a file of its own, which needs neither the run nor its data.

# %%
run.export("generator.pt")
generator = ws.load_generator("generator.pt", device="cpu")
assert (generator.sample(500, seed=0) == points).all()
