"""Where downloads and intermediate results are kept between runs."""
import os
from pathlib import Path

__all__ = ['cache_folder']


def cache_folder() -> Path:
    """`$RSQ_CACHE`, else `$XDG_CACHE_HOME/rsq-backbone`, else `~/.cache/rsq-backbone`; not created here."""
    own = os.environ.get('RSQ_CACHE')
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'rsq-backbone'
