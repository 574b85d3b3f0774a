"""Commands from functions: every field of the settings that a function takes is an option.

The settings are looked up by the names in a function's annotations, and only when its command is
run or explained, because ``opmerge --help`` must not wait for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from textwrap import dedent, indent
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from opmerge.cli.streams import console
from opmerge.errors import InputError
from opmerge.files import expand_home

if TYPE_CHECKING:
    from opmerge.settings.base import Settings

_CONTEXT: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda token: token.replace("-", "_"),
}
EXAMPLES = "\n\nExamples:\n"
_ALL = "opmerge.all"  # in a context's notes: whether all options are asked for
_TABLE_WIDTH = 76  # below, words would be cut beside the names: they stand under them
OTHERWISE = {"num_steps": "steps", "folder": "output_dir", "as_eigenvalues": "as eigenvalues"}
"""What the command line calls arguments of Python by another name."""


class _InPanels(click.Command):
    """A command that explains its parameters, and the commands in it, in panels."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--all" in args and {*self.get_help_option_names(ctx)} & {*args}:
            ctx.meta[_ALL] = True  # of the commands within as well
            args = [word for word in args if word != "--all"]
        return super().parse_args(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        from rich.padding import Padding
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        rows: dict[str, list[list[Text]]] = {"Arguments": []}
        hidden = 0
        for parameter in self.get_params(ctx):
            if isinstance(parameter, Explained):
                panel, (name, kind, text, default) = parameter.panel, parameter.cells
                if parameter.rare and not ctx.meta.get(_ALL):
                    hidden += 1
                    continue
            else:  # of click itself, such as --help
                panel, kind, default = "Help", "", ""
                name = " ".join(sorted(parameter.opts, key=len, reverse=True))
                text = getattr(parameter, "help", "")
            words = Text.assemble(text, (f" {default}".rstrip(), "dim"))
            cells = [Text(name, "bold cyan"), Text(kind, "bold yellow"), words]
            rows.setdefault(panel, []).append(cells)
        for name, command in getattr(self, "commands", {}).items():
            cells = [Text(name, "bold cyan"), Text(summary(command))]
            rows.setdefault("Commands", []).append(cells)
        if hidden:
            words = Text(f"Also the {hidden} options that are rarely needed.")
            rows["Help"].append([Text("--help --all", "bold cyan"), Text(""), words])
        page = console()
        with page.capture() as captured:
            page.print(Padding(Text(self.get_usage(ctx), "bold"), (1, 1)))
            page.print(Padding(Text(self.help or ""), (0, 1, 1, 1)))
            for title in filter(rows.get, rows):
                table = Table(show_header=False, box=None, pad_edge=False)
                is_wide = page.width >= _TABLE_WIDTH
                table.add_column(no_wrap=is_wide, overflow="fold")
                for *names, words in rows[title]:
                    if is_wide:
                        table.add_row(*names, words)
                    else:
                        table.add_row(Text(" ").join(names))
                        table.add_row(Padding(words, (0, 0, 0, 4)))
                page.print(Panel(table, title=title, title_align="left", border_style="dim"))
            if self.epilog:  # neither in a panel nor broken, so that lines can be copied
                page.print(Text(f"\n Examples\n\n{indent(self.epilog, '   ')}\n"), soft_wrap=True)
        return captured.get()


class Commands(_InPanels, click.Group):
    """Functions as commands, by name, and what all of them are for."""

    def __init__(self, name: str, description: str, commands: Mapping[str, Any]) -> None:
        super().__init__(name, help=description, context_settings=_CONTEXT)
        for verb, command in commands.items():
            is_group = isinstance(command, click.Command)
            self.add_command(command if is_group else Command(verb, command))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:  # which is how completion reads
            click.echo(self.get_help(ctx))
            raise click.UsageError("a command is missing")
        return super().parse_args(ctx, args)


class Command(_InPanels):
    """The command of a function, which takes settings alone; examples end the docstring."""

    def __init__(self, name: str, function: Callable[..., None]) -> None:
        told, _, shown = (inspect.getdoc(function) or "").partition(EXAMPLES)
        told = "\n\n".join(" ".join(each.split()) for each in told.split("\n\n"))
        super().__init__(name, help=told, epilog=dedent(shown).strip(), context_settings=_CONTEXT)
        self._function = function

    @cached_property
    def groups(self) -> dict[str, type[Settings]]:
        """The settings that the function takes, by the names of its arguments."""
        hints = get_type_hints(self._function, _all())
        return {name: hint for name, hint in hints.items() if name != "return"}

    @cached_property
    def options(self) -> list[Option | Argument]:
        """A parameter for each field, required ones first."""
        found = [each for group in self.groups.values() for each in _parameters(group)]
        return sorted(found, key=lambda each: not each.required)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = self.get_help_option(ctx)
        return [*self.options, *([own] if own else [])]

    def invoke(self, ctx: click.Context) -> None:
        asked = ParameterSource.COMMANDLINE
        given = {k: v for k, v in ctx.params.items() if ctx.get_parameter_source(k) is asked}
        self._function(**{name: _built(group, given) for name, group in self.groups.items()})


class Explained:
    """What help shows of a parameter: its name, kind of value, description and default."""

    panel: str
    rare: bool
    description: str
    cells: tuple[str, str, str, str]


class Option(Explained, click.Option):
    """A field under its name; hyphens stand for underscores."""


class Argument(Explained, click.Argument):
    """A field that is told by its place."""


def summary(command: click.Command) -> str:
    """The first paragraph of a command's help, in one line."""
    return " ".join((command.help or "").split("\n\n")[0].split())


def as_option(name: str, value: str | None) -> str | None:
    """What the command line calls an argument of Python: ``num_steps=64`` is ``--steps 64``.

    ``None`` for a name that is no option.
    """
    name = OTHERWISE.get(name, name)
    groups = [group for group in _all().values() if _fields(group)]
    if name.split()[0] not in {p.opts[0][2:] for group in groups for p in _parameters(group)}:
        return None
    text = "" if value in (None, "True") else str(value).strip("()'\"").replace(", ", ",")
    return f"--{name} {text}".rstrip()


@cache
def _all() -> dict[str, Any]:
    """All settings by name."""
    from opmerge.settings import commands, data, distillation, guidance, networks

    modules = (commands, data, distillation, guidance, networks)
    return {name: value for module in modules for name, value in vars(module).items()}


def _fields(group: Any) -> Mapping[str, Any]:
    return getattr(group, "model_fields", {})


def _parameters(group: type[Settings], values: Any = None) -> Iterator[Option | Argument]:
    """One for each field, and for each field of settings inside; defaults from ``values``."""
    for name, field in _fields(group).items():
        default = field.default if values is None else getattr(values, name)
        if _fields(field.annotation):
            yield from _parameters(field.annotation, default)
            continue
        shown, required = field.json_schema_extra, field.is_required()
        value = _Value(field.annotation)
        parameter: Option | Argument
        if shown["panel"] == "Arguments":
            title, kind = shown["metavar"], f"<{value.name}>"
            metavar = title if required else f"[{title}]"
            parameter = Argument([name], type=value, metavar=metavar, required=required)
        else:
            is_flag = value.kind is bool
            title, usual = f"--{shown.get('name', name)}", "" if is_flag else f"<{value.name}>"
            kind = shown.get("metavar", usual)
            form: dict[str, Any] = {"is_flag": True} if is_flag else {"type": value}
            form |= {"required": required, "multiple": value.repeated}
            parameter = Option([title, name], **form)
        if required:
            told = "[required]"
        elif "shown" in shown:
            told = f"[default: ({shown['shown']})]"
        else:
            told = "" if default is False or default in (None, ()) else f"[default: {default}]"
        owner: Any = next(each for each in reversed(group.__mro__) if name in _fields(each))
        parameter.panel, parameter.description = shown["panel"] or owner.panel, field.description
        parameter.rare = shown["rare"]
        parameter.cells = (title, kind, field.description, told)
        yield parameter


class _Value(click.ParamType):  # type: ignore[type-arg]  # generic in the latest click only
    """A field's value from its text; of what is out of range the settings tell."""

    def __init__(self, annotation: Any) -> None:
        leaves = list(_leaves(annotation))
        self.choices = [leaf for leaf in leaves if isinstance(leaf, str)]
        self.kind: type = next(leaf for leaf in leaves if leaf not in (tuple, *self.choices))
        several = tuple in leaves
        self.repeated = several and self.kind is str
        self._numbers, self._or_one = several and not self.repeated, leaves[0] is not tuple
        name = "str" if self._numbers else self.kind.__name__.lower()
        self.name = f"list[{name}]" if self.repeated else name

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Choices that go on so; without any, files where a path or a source may be meant."""
        found = [choice for choice in self.choices if choice.startswith(incomplete)]
        if self.choices:
            return [CompletionItem(choice) for choice in found]
        is_file = self.kind is Path or isinstance(param, Argument)
        return [CompletionItem(incomplete, type="file")] if is_file else []

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.choices:  # some stand for a number
            return value
        if self.kind is Path:
            return value and expand_home(value)  # a shell leaves --output_dir=~/run as it is
        if self._numbers:
            return self._read_numbers(value, str(param and param.name))
        if self.kind is str:
            hyphens = value.replace("_", "-")
            return hyphens if hyphens in self.choices else value
        return click.types.convert_type(self.kind)(value, param, ctx)

    def _read_numbers(self, text: str, name: str) -> int | tuple[int, ...]:
        try:
            numbers = tuple(map(int, text.split(",")))
        except ValueError as error:
            raise InputError(name, "must be whole numbers, separated by commas", text) from error
        return numbers[0] if self._or_one and len(numbers) == 1 else numbers


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types that a type is made of, and the choices of those that are literal."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from (str, *parts)
    elif origin is Annotated:
        yield from _leaves(parts[0])
    elif parts:
        if origin is tuple:
            yield tuple
        for part in parts:
            yield from _leaves(part)
    elif annotation not in (NoneType, Ellipsis):
        yield annotation


def _built(group: type[Settings], given: Mapping[str, Any], default: Any = None) -> Settings:
    """Settings of what was given; of settings inside, what was not is their default's."""
    values = {name: given[name] for name in group.model_fields if name in given}
    for name, field in _fields(group).items():
        if given.keys() & _fields(field.annotation).keys():
            values[name] = _built(field.annotation, given, field.default)
    return group(**values) if default is None else default.replaced(**values)
