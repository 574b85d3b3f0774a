"""Which samples are read, and how images become samples."""

from __future__ import annotations

from typing import Self

from opmerge.settings.base import Settings, argument, option
from opmerge.settings.types import Count, Split


class SourceOptions(Settings):
    """How images are cut and resized; only CelebA has splits."""

    panel = "Data"

    patch_size: Count = option(16, "Side of the patches of `patches`.", rare=True)
    stride: Count = option(4, "Distance between those patches.", rare=True)
    image_size: Count | None = option(
        None,
        "Side to which a folder's images are resized.",
        shown="the teacher's, else the images', at most 64",
    )
    grey: bool = option(False, "Read a folder's images as grey.", rare=True)
    split: Split | None = option(
        None, "Of CelebA: train, validation, test or all.", shown="train for CelebA", rare=True
    )

    def fitted(self, shape: tuple[int, ...] | None) -> Self:
        """The same but, where nothing else was given, for the size and colours of such images."""
        if shape is None or len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
            return self
        fitting = {"image_size": shape[2], "grey": shape[0] == 1}
        return self.replaced(**{name: self.given(name, each) for name, each in fitting.items()})


class DataOptions(SourceOptions):
    """The source of the eigenvalues."""

    source: str = argument(
        "SOURCE",
        "digits, patches, faces, eigenvalues:0.2,0.5,2, a file of samples (.npy .npz .csv .tsv .pt "
        ".safetensors), a saved spectrum (.npz), a folder of images, of CelebA or of arrays, or a "
        "prepared data set.",
    )
    kind: str = option(
        "samples",
        "What a file holds: samples or eigenvalues.",
        name="as",
        metavar="KIND",
        rare=True,
    )
    diagonal: bool = option(False, "Variances of the features instead of eigenvalues.", rare=True)
    top_k: Count | None = option(
        None, "Only the k largest eigenvalues (over 8192 features: by a sketch).", rare=True
    )
    seed: int = option(0, "Seed of the sketch.", rare=True)


class SampleOptions(SourceOptions):
    """The samples that networks are trained on."""

    source: str = argument(
        "SOURCE",
        "digits, patches, faces, a file of samples (.npy .npz .csv .tsv .pt .safetensors), a "
        "folder of images or arrays, or a prepared data set.",
    )
    labels: str | None = option(
        None,
        "Class labels of the samples, for a class-conditional network: a .npy file of integers, "
        "or digits.",
    )


class DistilledSamples(SampleOptions):
    """The samples that students are trained on, if any."""

    source: str = argument(
        "SOURCE",
        "digits, patches, faces, a file of samples (.npy .npz .csv .tsv .pt .safetensors), a "
        "folder of images or arrays, or a prepared data set; none, or one of prompts alone, with "
        "--data_free.",
    )


class ImagesOptions(SourceOptions):
    """The images that an autoencoder is trained on, or encodes."""

    source: str = argument(
        "SOURCE",
        "digits, patches, faces, a file of images (.npy .npz .pt .safetensors) or a folder of "
        "images.",
    )
