"""An edge device and a cloud endpoint disagree: which stage differs first? One photograph, two JPEG decoders.

Needs pillow, av and scikit-learn (for its photograph). Each side records its pipeline in a process of its own, as it
would on a machine of its own; then the two recordings are compared. Here the decoder differs, nothing else.
"""

import io
import subprocess
import sys
from importlib import resources
from pathlib import Path

import av
import numpy as np
from PIL import Image

import constann
from constann import comparison

SIDE, TILES = 32, 200


def decode(encoded: bytes, decoder: str) -> np.ndarray:
    """Turn a JPEG into pixels, by libjpeg-turbo (pillow) or FFmpeg (av)."""
    if decoder == "pillow":
        return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    with av.open(io.BytesIO(encoded)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def embed(tiles: np.ndarray) -> np.ndarray:
    """Project small images onto 64 directions: in integers, so that this stage adds no difference of its own."""
    directions = np.random.default_rng(0).integers(-8, 9, (SIDE * SIDE * 3, 64))
    return (tiles.reshape(len(tiles), -1).astype(np.int64) @ directions).astype(np.float32)


def pipeline(decoder: str, path: str) -> None:
    """Record each stage from the file to the neighbours."""
    encoded = (resources.files("sklearn.datasets.images") / "china.jpg").read_bytes()
    with constann.recording(path) as rec:
        rec.stage("file", np.frombuffer(encoded, np.uint8))
        pixels = decode(encoded, decoder)
        rec.stage("pixels", pixels)
        resized = np.asarray(Image.fromarray(pixels).resize((SIDE * 20, SIDE * 10), Image.Resampling.BOX))
        rec.stage("resized", resized)
        tiles = resized.reshape(10, SIDE, 20, SIDE, 3).swapaxes(1, 2).reshape(TILES, SIDE, SIDE, 3)
        embedded = embed(tiles)
        rec.stage("embedded", embedded)
        ids, distances = constann.build(embedded, metric="cosine", kind="exact").search(embedded, k=5)
        rec.stage("neighbours", ids)
        rec.stage("distances", distances)


def recorded(decoder: str, name: str) -> comparison.Recorded:
    """Run the pipeline elsewhere and read what it recorded."""
    path = str(Path(name).resolve())
    subprocess.run([sys.executable, __file__, decoder, path], check=True)
    return comparison.read(path)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        pipeline(*sys.argv[1:])
    else:
        edge, cloud = recorded("av", "edge.rec"), recorded("pillow", "cloud.rec")
        found = comparison.compare([edge, cloud])
        print(comparison.text(found))
        assert found.first is not None and found.first.name == "pixels"
        assert comparison.compare([cloud, recorded("pillow", "repaired.rec")]).agrees
        print("with the same decoder on both sides all stages agree")
