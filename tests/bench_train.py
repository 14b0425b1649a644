"""Measure training on representations, by hand: python tests/bench_train.py [--trailers 12000] [--folder DIR]

Writes a data set in the published format (zarr format 2, Blosc; random vectors plus a signal of labels), packs it, and
prints the time to the first batch, the resident memory and, for one epoch each, the time of
  fit     Keras's fit on divita's snippets, as in 02_train.py, with one thread on a CPU
  cut     cutting the batches, a part of fit
  memory  a plain PyTorch loop over the same snippets in memory, with a PyTorch twin of the model
  zarr    the plain loop with one zarr read per example in two worker processes, as in the published code
--labels FILE uses the labels and splits of a file such as mtgc.csv.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import zarr
from numcodecs import Blosc
from torch import nn

import divita
from divita import keras

COMPRESSOR = Blosc(cname="lz4", clevel=5, shuffle=1)  # as published
NAMES = ("trailers_i_shufflenet_fpc24", "trailers_k_shufflenet_fps24_fpc24")


def write_archives(folder, labels, num_features, clips):
    """Write two archives in the published format whose vectors carry a weak signal of the labels."""
    for number, name in enumerate(NAMES):
        generator = np.random.default_rng(number)
        directions = generator.standard_normal((len(labels.genres), num_features), np.float32)
        group = zarr.open_group(folder / f"{name}.zarr", mode="w", zarr_format=2)
        lengths = np.random.default_rng(9).integers(clips // 2, clips * 3 // 2 + 1, len(labels.mids))
        for mid, y, length in zip(labels.mids, labels.y, lengths):
            x = generator.standard_normal((length, num_features), np.float32) + 0.1 * y.astype(np.float32) @ directions

            group.create_array(mid, data=x, chunks=x.shape, compressors=COMPRESSOR)


class TorchCAM(nn.Module):
    """The paper's clip aggregation module in plain PyTorch, with fused attention."""

    def __init__(self, num_features, genres):
        super().__init__()
        self.norm = nn.BatchNorm1d(num_features)
        self.linear = nn.Linear(num_features, 128)
        self.block = nn.TransformerEncoderLayer(128, 4, 768, 0.25, batch_first=True)
        self.logits = nn.Linear(128, genres)

    def forward(self, x):  # (B, S, F) -> (B, G)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.logits(self.block(self.linear(x)).mean(1))


class TorchTwin(nn.Module):
    def __init__(self, num_features, genres):
        super().__init__()
        self.image, self.video = TorchCAM(num_features, genres), TorchCAM(num_features, genres)

    def forward(self, image, video):
        return (self.image(image) + self.video(video)) / 2


def torch_epoch(batches, num_features, genres):
    """Return the seconds of one epoch of a plain loop."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = TorchTwin(num_features, genres).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.01, amsgrad=True)
    loss = nn.BCEWithLogitsLoss()
    started = time.perf_counter()
    for x, y in batches:
        optimizer.zero_grad()
        loss(model(*(torch.as_tensor(clips).to(device) for clips in x)), torch.as_tensor(y).to(device)).backward()
        optimizer.step()
    return time.perf_counter() - started


class ZarrTrailers(torch.utils.data.Dataset):
    """One zarr read per input and example."""

    def __init__(self, folder, mids, y, clips):
        self.groups = [zarr.open_group(folder / f"{name}.zarr", mode="r", zarr_format=2) for name in NAMES]
        self.mids, self.y, self.clips = mids, y.astype(np.float32), clips

    def __len__(self):
        return len(self.mids)

    def __getitem__(self, i):
        trailer = [group[self.mids[i]][:] for group in self.groups]
        start = np.random.randint(max(1, len(trailer[0]) - self.clips + 1))
        return tuple(x[start : start + self.clips] for x in trailer), self.y[i]


def keras_epoch(representations, mids, y, clips, batch_size, epochs=2):
    """Return the seconds of the fastest epoch of fit after the first, which warms up."""
    num_features = {"image": representations[0].num_features, "video": representations[1].num_features}
    model = divita.compile_model(divita.divita(num_features, y.shape[1]))
    times = []
    tick = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: times.append(time.perf_counter()),
        on_epoch_end=lambda *_: times.append(time.perf_counter() - times.pop()),
    )
    snippets = divita.TrainingSnippets(representations, mids, y, clips, batch_size, 0)
    model.fit(snippets, epochs=epochs, shuffle=False, verbose=0, callbacks=[tick])
    return min(times[1:])


def cut_epoch(representations, mids, y, clips, batch_size):
    """Return the seconds of cutting the batches of an epoch."""
    snippets = divita.TrainingSnippets(representations, mids, y, clips, batch_size, 0)
    started = time.perf_counter()
    for i in range(len(snippets)):
        snippets[i]
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trailers", type=int, default=2000)
    parser.add_argument("--clips", type=int, default=100, help="mean clips per trailer (100)")
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--folder", type=Path, help="data folder, kept and reused (a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "labels.csv").exists():
            if arguments.labels:
                labels = divita.read_labels(arguments.labels)
            else:
                y = (np.random.default_rng(0).random((arguments.trailers, 10)) < 0.25).astype(np.uint8)
                mids = [f"tt{i:07d}" for i in range(len(y))]
                labels = divita.Labels(mids, [f"genre{i}" for i in range(10)], y, np.zeros((len(y), 1), np.uint8))
            write_archives(folder, labels, arguments.features, arguments.clips)
            rows = [[mid, *y, *splits] for mid, y, splits in zip(labels.mids, labels.y, labels.splits)]
            columns = [f"split{k}" for k in range(labels.splits.shape[1])]
            divita.write_csv(folder / "labels.csv", ["mid", *labels.genres, *columns], rows)
        report(folder, clips=30, batch_size=32)


def report(folder, clips, batch_size):
    labels = divita.load_labels(folder)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    for state in ("cold", "warm"):
        started = time.perf_counter()
        representations = [divita.open_representation(folder, name) for name in NAMES]
        rows = divita.subset(labels, 0, "train")
        mids, y = [labels.mids[row] for row in rows], labels.y[rows]
        snippets = divita.TrainingSnippets(representations, mids, y, clips, batch_size, 0)
        snippets[0]
        print(
            f"first batch, {state}: {time.perf_counter() - started:.1f} s ({len(mids)} training trailers)", flush=True
        )
    keras_epoch(representations, mids, y, clips, batch_size)
    resident = Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]
    print(f"memory after two epochs, besides mapped files: {int(resident) / 2**20:.1f} GiB", flush=True)
    memory = [snippets[i] for i in range(len(snippets))]  # all batches of an epoch; the file is warm now
    torch_epoch(memory[:4], representations[0].num_features, y.shape[1])
    dataset = ZarrTrailers(folder, mids, y, clips)
    loader = torch.utils.data.DataLoader(dataset, batch_size, shuffle=True, num_workers=2)
    seconds = {"fit": [], "cut": [], "memory": [], "zarr": []}
    for _ in range(3):  # alternating, because the machine's speed drifts
        seconds["fit"].append(keras_epoch(representations, mids, y, clips, batch_size))
        seconds["cut"].append(cut_epoch(representations, mids, y, clips, batch_size))
        seconds["memory"].append(torch_epoch(memory, representations[0].num_features, y.shape[1]))
        seconds["zarr"].append(torch_epoch(loader, representations[0].num_features, y.shape[1]))
    for name, values in seconds.items():
        share = np.median(np.divide(seconds["fit"], values))  # within a round
        print(f"{name:8} {np.median(values):8.2f} s per epoch, fit takes {share:.2f} of it")


if __name__ == "__main__":
    main()
