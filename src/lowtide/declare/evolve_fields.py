"""What a change of a model's fields does to old versions of the app and to stored records."""

from __future__ import annotations

from lowtide.declare.changes import Changes
from lowtide.declare.snapshot import FieldState, ModelState
from lowtide.kernel.schema import Kind, MergeRule

_SAME_BYTES: set[tuple[Kind, Kind]] = {("reference", "text"), ("text", "reference")}
"""Kinds that hold the same values in the same column."""

_WIDER: dict[tuple[Kind, Kind], str] = {
    # The stored integers are numbers too. A column that an old version declared INTEGER cuts fractions
    # off, so that it shows 2 for 2.5; it uploads the field only when its user changes that very field.
    ("integer", "number"): "old versions of the app cut the fraction off",
    ("boolean", "integer"): "old versions of the app take every value but 0 for true",
}
_ARRAYS: set[MergeRule] = {"set", "list"}


def former_names(old: ModelState, new: ModelState) -> dict[str, str]:
    """The field of ``new`` that goes on with each field of ``old``, by their names."""
    renamed = {field.renamed_from: name for name, field in new.fields.items() if field.renamed_from}
    return {
        name: name if name in new.fields else renamed[name]
        for name in old.fields
        if name in new.fields or name in renamed
    }


def compare_fields(found: Changes, model: str, old: ModelState, new: ModelState) -> None:
    """Report every difference between the fields of two versions of one model."""
    names = former_names(old, new)
    for name, field in old.fields.items():
        subject = f"{model}.{name}"
        if name in names:
            _compare_field(found, model, name, names[name], field, new)
        elif field.removed:
            found.warn(
                "field-dropped",
                subject,
                "versions that still use it no longer receive it, and what they write there is refused",
                "Look which versions are still in use before.",
            )
        else:
            found.refuse(
                "field-removed",
                subject,
                "versions in the field still read and write it",
                f"Keep it: {name} = removed(...). If it has a new name: renamed_from={name!r} there.",
            )
    for name in new.fields.keys() - names.values():
        added_field(found, f"{model}.{name}", new.fields[name])


def added_field(found: Changes, subject: str, field: FieldState) -> None:
    """Report a field that an existing model did not have."""
    if field.may_be_left_out:
        found.ok("field-added", subject, "old versions and stored records have its default, or nothing")
    else:
        found.refuse(
            "field-required",
            subject,
            "old versions of the app do not fill it, and stored records have no value for it",
            "Write optional=True or give it a default.",
        )


def _compare_field(
    found: Changes, model: str, former: str, name: str, old: FieldState, model_now: ModelState
) -> None:
    new = model_now.fields[name]
    subject = f"{model}.{name}"
    if name != former:
        found.ok("field-renamed", subject, f"old versions go on with the name {former!r}")
    if old.renamed_from not in (None, new.renamed_from):
        found.refuse(
            "former-name-dropped",
            subject,
            f"versions in the field still call it {old.renamed_from!r}",
            f"Keep renamed_from={old.renamed_from!r}: a field has one former name.",
        )
    indexed = any(name in names for names in (*model_now.unique, model_now.indexes))
    if _compare_kind(found, subject, old, new, indexed):
        _compare_merge(found, subject, old, new)
    _compare_emptiness(found, subject, old, new)
    _compare_length(found, subject, old, new)
    if new.removed != old.removed:
        _compare_removed(found, subject, new)


def _compare_kind(found: Changes, subject: str, old: FieldState, new: FieldState, indexed: bool) -> bool:
    """Report a change of kind; answers whether the merges can still be compared."""
    pair = (old.kind, new.kind)
    if old.kind == new.kind:
        if old.model != new.model:
            found.refuse(
                "reference-changed",
                subject,
                f"stored ids and old versions mean {old.model}, not {new.model}",
                "Add a new field for the other model, and remove this one with removed().",
            )
        return True
    if pair in _SAME_BYTES:
        found.ok(
            "kind-changed", subject, f"{old.kind} becomes {new.kind}: the same values in the same column"
        )
        return True
    if pair in _WIDER and not indexed:
        found.warn(
            "kind-widened",
            subject,
            f"{old.kind} becomes {new.kind}: {_WIDER[pair]}",
            "Add a new field instead if old versions must see it whole.",
        )
        return True
    found.refuse(
        "kind-changed",
        subject,
        f"{old.kind} becomes {new.kind}: old versions and stored records hold {old.kind}",
        "Add a new field, fill it from this one on the server, and remove this one with removed().",
    )
    return False


def _compare_merge(found: Changes, subject: str, old: FieldState, new: FieldState) -> None:
    before, after = old.merge, new.merge
    if before == after:
        return
    change = f"{before} becomes {after}"
    if "collaborative" in (before, after):
        found.refuse(
            "merge-changed",
            subject,
            f"{change}: plain text and Yjs documents are different content",
            "Add a new field, fill it from this one on the server, and remove this one with removed().",
        )
    elif after in _ARRAYS and before not in _ARRAYS:
        found.refuse(
            "merge-changed",
            subject,
            f"{change}: stored values need not be arrays",
            "Add a new field, fill it from this one on the server, and remove this one with removed().",
        )
    elif after == "server":
        found.warn(
            "rights-removed",
            subject,
            "writes of old versions, and those waiting on devices, are refused and come back",
            "Ship versions that do not write it first.",
        )
    elif before == "server":
        found.ok("rights-added", subject, "devices may write it where the model's rule says so")
    elif (before, after) == ("list", "set"):
        found.warn("merge-changed", subject, f"{change}: order and repetitions go at the next write", _QUEUED)
    elif before in _ARRAYS and after not in _ARRAYS:
        found.warn("merge-changed", subject, f"{change}: the array conflicts as a whole from now on", _QUEUED)
    else:
        found.warn("merge-changed", subject, f"{change}: the stored values stay", _QUEUED)


_QUEUED = "Safe for devices: writes that wait on them carry what they replaced, and merge by the new rule."


def _compare_emptiness(found: Changes, subject: str, old: FieldState, new: FieldState) -> None:
    if old.may_be_left_out and not new.may_be_left_out:
        found.refuse(
            "field-required",
            subject,
            "old versions of the app leave it out, and stored records may be empty",
            "Keep it optional, or give it a default and fill the empty ones on the server.",
        )
    elif old.optional and not new.optional:
        found.warn(
            "field-required",
            subject,
            "edits of records in which it is empty are refused, also those of other fields",
            "Fill the empty ones on the server before.",
        )
    elif new.optional and not old.optional and not new.removed:
        found.warn(
            "field-optional",
            subject,
            "old versions of the app meet records without a value for it",
            "Give it a default if they cannot show that.",
        )
    elif new.default != old.default and not new.removed:
        found.ok("default-changed", subject, "new records start with it; stored ones stay")


def _compare_length(found: Changes, subject: str, old: FieldState, new: FieldState) -> None:
    if new.max_length is not None and (old.max_length is None or new.max_length < old.max_length):
        found.warn(
            "max-length-shorter",
            subject,
            f"longer values that old versions write are refused and come back; {new.max_length} are allowed",
            "Ship versions that keep to it first. Stored values that are longer stay.",
        )
    elif new.max_length != old.max_length:
        found.ok("max-length-longer", subject, "longer values are accepted")


def _compare_removed(found: Changes, subject: str, new: FieldState) -> None:
    if not new.removed:
        found.ok("field-back", subject, "it is part of the app again")
    elif new.default is not None:
        found.ok("field-retired", subject, "old versions go on; records of new ones have the default there")
    else:
        found.warn(
            "field-retired",
            subject,
            "old versions go on, but meet records of newer ones without a value for it",
            "Give it a default if they cannot show that: removed(Text(default='')).",
        )
