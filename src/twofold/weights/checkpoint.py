"""The tensors of a model folder: one safetensors file, shards with an index, or shards without one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from twofold.errors import CheckpointError
from twofold.ops.packed import AnyArray
from twofold.weights.safetensors import SafetensorsFile
from twofold.weights.strict_json import read_json

__all__ = ["Checkpoint", "missing_shards", "read_json"]

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
NUMBERED_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
OTHER_WEIGHTS = ("*.bin", "*.pth", "*.pt", "*.ckpt", "*.gguf")


class Checkpoint:
    """Every tensor of a model by name, whichever file holds it. Arrays are read-only views of the mapped files."""

    def __init__(self, files: Mapping[str, SafetensorsFile]) -> None:
        self.homes = files

    @classmethod
    def open(cls, folder: str | Path) -> Checkpoint:
        """Open all weight files of a folder and check them; raises CheckpointError. No weight is read yet.

        model.safetensors is taken alone when it is there, else the shards of the index, else every *.safetensors.
        """
        folder = Path(folder)
        names, index = weight_files(folder)
        missing = missing_of(folder, names)
        if missing:
            raise CheckpointError(
                f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing)}. Download them."
            )
        files = [SafetensorsFile(folder / name) for name in names]
        homes = join(files)
        if index is not None:
            check_index(index, homes, folder)
        return cls(homes)

    @classmethod
    def open_files(cls, paths: Sequence[Path]) -> Checkpoint:
        """Exactly these files, without an index."""
        return cls(join([SafetensorsFile(path) for path in paths]))

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors."""
        return self.homes.keys()

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        entries = (file.entries[name] for name, file in self.homes.items())
        return sum(entry.end - entry.begin for entry in entries)

    def is_quantised(self, name: str) -> bool:
        """Never: quantised modules are seen by QuantisedCheckpoint only."""
        return False

    def tensor(self, name: str) -> AnyArray:
        """A read-only view of a tensor in its file. KeyError for an unknown name, as in the methods below."""
        return self.homes[name].tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; reads nothing."""
        return self.homes[name].entries[name].shape

    def dtype(self, name: str) -> str:
        """Dtype of a tensor as the format spells it (F32, BF16, ...); reads nothing."""
        return self.homes[name].entries[name].dtype

    def file(self, name: str) -> SafetensorsFile:
        """The file that holds a tensor."""
        return self.homes[name]


def weight_files(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    """Names of the files that make up the weights, present or not, and the index when there is one."""
    if (folder / SINGLE_NAME).exists():
        return [SINGLE_NAME], None
    if (folder / INDEX_NAME).exists():
        index = read_index(folder)
        return sorted(set(index.values())), index
    found = {path.name for path in folder.glob("*.safetensors")}
    if not found:
        raise CheckpointError(no_weights(folder))
    for name in list(found):
        if match := NUMBERED_SHARD.fullmatch(name):
            stem, _, count = match.groups()
            # The count is only believed up to what a file name may promise: 99999 short strings.
            found |= {f"{stem}-{number:05}-of-{count}.safetensors" for number in range(1, int(count) + 1)}
    return sorted(found), None


def missing_shards(folder: Path) -> list[str]:
    """Weight files a folder should have and has not; raises CheckpointError when it has none at all."""
    return missing_of(folder, weight_files(folder)[0])


def missing_of(folder: Path, names: list[str]) -> list[str]:
    """Those of the names that are no files (a link whose target is gone is none)."""
    return [name for name in names if not (folder / name).is_file()]


def no_weights(folder: Path) -> str:
    """What to say about a folder without safetensors files."""
    others = sorted(path.name for pattern in OTHER_WEIGHTS for path in folder.glob(pattern))
    if not others:
        return f"{folder} holds no weights; *.safetensors files were expected. Download the model again."
    if all(name.endswith(".gguf") for name in others):
        return (
            f"{folder} holds only GGUF files ({', '.join(others[:3])}), which are read in another way. "
            "Use the safetensors repository of the same model, or name the file where a model is asked for."
        )
    return (
        f"{folder} holds only pickled weights ({', '.join(others[:3])}), which can run code and are never loaded. "
        "Download the safetensors version, or convert once where you trust the file: transformers' "
        "AutoModelForCausalLM.from_pretrained(...).save_pretrained(..., safe_serialization=True)."
    )


def read_index(folder: Path) -> dict[str, str]:
    """weight_map of the index: tensor name -> file name, every file name a plain one inside the folder."""
    weight_map = read_json(folder, INDEX_NAME).get("weight_map")
    path = folder / INDEX_NAME
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map from tensor names to file names. Download it again.")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not is_plain_file_name(file):
            raise CheckpointError(
                f"{path} puts tensor {name!r} into {file!r}; the plain name of a .safetensors file in the same folder "
                "was expected. Do not trust this checkpoint."
            )
    return weight_map


def is_plain_file_name(name: str) -> bool:
    """Whether a name stays inside its folder and is a safetensors file's."""
    return name.endswith(".safetensors") and not name.startswith(".") and not set(name) & set("/\\:\0")


def join(files: list[SafetensorsFile]) -> dict[str, SafetensorsFile]:
    """Tensor name -> file; raises CheckpointError when two files hold the same name."""
    homes: dict[str, SafetensorsFile] = {}
    for file in files:
        for name in file.entries:
            if name in homes:
                raise CheckpointError(
                    f"tensor {name!r} is in two files, {homes[name].path.name} and {file.path.name} of "
                    f"{file.path.parent}. Remove files that do not belong to this model, or download it again."
                )
            homes[name] = file
    return homes


def check_index(index: dict[str, str], homes: dict[str, SafetensorsFile], folder: Path) -> None:
    """The index and the shards must name the same tensors in the same files."""
    lost = [name for name, file in index.items() if name not in homes or homes[name].path.name != file]
    extra = [name for name in homes if name not in index]
    if lost:
        name = lost[0]
        near = get_close_matches(name, [other for other, file in homes.items() if file.path.name == index[name]], n=1)
        hint = f" (which has {near[0]!r})" if near else ""
        raise CheckpointError(
            f"{folder}: {INDEX_NAME} promises {len(lost)} tensors that are not where it says, first {name!r} in "
            f"{index[name]}{hint}. Index and shards are of different models; download both again."
        )
    if extra:
        raise CheckpointError(
            f"{folder}: the shards hold {len(extra)} tensors that {INDEX_NAME} does not name, first {extra[0]!r} in "
            f"{homes[extra[0]].path.name}. Download the index again, or remove it to use every shard as it is."
        )
