"""Cloud storage in memory, in the place of gs://."""

import pathlib

from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """Its globs give names as those of gcsfs do."""

    protocol = "gs"
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs:/"))

    def glob(self, path, **options):
        return [name.lstrip("/") for name in super().glob(path, **options)]

    def copy_tree(self, folder: pathlib.Path, url: str) -> None:
        """Puts the files of a local folder under a gs:// address."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.pipe_file(f"{url}/{path.relative_to(folder)}", path.read_bytes())
