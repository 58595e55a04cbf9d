"""What lies in a folder of images without being the user's: files of the system, of file servers and of archivers."""
from pathlib import Path

__all__ = ['is_passed_over', 'is_run']

# Thumbnails and indices of Synology and QNAP servers, recycle bins, what Linux, macOS and Windows put onto disks.
_SYSTEM = frozenset({
    '@eadir', '@recycle', '#recycle', '#snapshot', '$recycle.bin', 'recycler', 'system volume information',
    'lost+found', '__macosx', 'thumbs.db', 'desktop.ini'})


def is_passed_over(path: Path) -> bool:
    """Whether a file or folder is hidden or put there by a system; what lies in such a folder is not looked at."""
    return path.name.startswith('.') or path.name.lower() in _SYSTEM


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run, whose plots are no images to train on."""
    return (folder / '.lock').is_file() or ((folder / 'settings.json').is_file() and any(
        (folder / name).exists() for name in ('metrics.json', 'split.csv', 'checkpoints')))
