"""Where benchmarks find real images: in the folder that the environment variable RSQ_DATA names."""
import os
from pathlib import Path

from rsq_backbone.errors import UserError

__all__ = ['data_folder']


def data_folder(name: str) -> Path:
    """A folder of the real data that RSQ_DATA names.

    Raises:
        UserError: if there is none.
    """
    folder = Path(os.environ.get('RSQ_DATA', '')) / name
    if not os.environ.get('RSQ_DATA') or not folder.is_dir():
        raise UserError(f'this benchmark needs real images: set RSQ_DATA to a folder that holds {name}/.')
    return folder
