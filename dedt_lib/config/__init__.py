"""How large everything is (a Profile), and which run is wanted (a Recipe)."""

from typing import TYPE_CHECKING, Any

from .recipe import Recipe

if TYPE_CHECKING:
    from .profile import Profile, checked, load_profile, profile_names

__all__ = ["Profile", "Recipe", "checked", "load_profile", "profile_names"]


def __getattr__(name: str) -> Any:
    """What ``profile`` defines, imported when it is asked for: the help of a verb needs the recipe alone."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import profile

    return getattr(profile, name)
