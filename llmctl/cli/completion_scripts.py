"""The completion script of a shell, made from a description of the command line. Static: no key starts a program.

Each script is a table of what can stand where. Values are the words known when it was made; files and folders are
completed by the shell itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from llmctl import registry
from llmctl.errors import UsageError

Place = Literal["file", "folder"]


@dataclass(frozen=True, slots=True)
class Values:
    """What can stand in one place: known words, a place on disk, both, or (neither) text that only a person knows."""

    words: tuple[str, ...] = ()
    place: Place | None = None
    unfinished: bool = False
    """The words are beginnings: no blank after them."""
    after: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The words that follow a word: names after a kind."""


@dataclass(frozen=True, slots=True)
class Flag:
    """An option; without `values` a switch."""

    name: str
    help: str
    values: Values | None = None
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A verb, its options, and what its words without a flag can be."""

    name: str
    help: str
    flags: tuple[Flag, ...]
    words: Values | None = None


def script(shell: str, commands: Sequence[Command]) -> str:
    """The whole script, with a newline at its end. Raises `UsageError` for a shell that is not known."""
    if shell not in SHELLS:
        hint = registry.near(shell, SHELLS) or f"shells: {', '.join(SHELLS)}"
        raise UsageError(f"no such shell {shell!r}", hint=hint)
    return "\n".join(SHELLS[shell](commands)) + "\n"


def _made_by(shell: str, install: str) -> list[str]:
    return [f"# Completion of llmctl for {shell}, made by `llmctl completions {shell}`.", f"# Use it: {install}", ""]


# ---------------------------------------------------------------------------------------------------------------
# bash

_BASH_HEAD: Final = r"""
# Words, and files or folders, that begin with what is typed: _llmctl_offer WORDS [-f|-d]
_llmctl_offer() {
    local reply
    while IFS= read -r reply; do COMPREPLY+=("$reply"); done < <(compgen -W "$1" -- "$current")
    if [[ -n ${2-} ]]; then
        compopt -o filenames 2>/dev/null
        while IFS= read -r reply; do COMPREPLY+=("$reply"); done < <(compgen "$2" -- "$current")
    fi
}

_llmctl() {
    local current="" previous="" verb="" joined=() word i
    COMPREPLY=()
    # bash breaks words at : and =; put gpt2:tiny and --model=gpt2 together again.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if ((${#joined[@]} > 1)) && [[ $word == [:=]* || ${joined[${#joined[@]} - 1]} == *[:=] ]]; then
            joined[${#joined[@]} - 1]+=$word
        else
            joined+=("$word")
        fi
    done
    current=${joined[${#joined[@]} - 1]}
    previous=${joined[${#joined[@]} - 2]}
    for word in "${joined[@]:1:${#joined[@]}-2}"; do
        if [[ $word != -* ]]; then verb=$word; break; fi
    done
    local typed=$current
    if [[ $current == --*=* ]]; then previous=${current%%=*} current=${current#*=}; fi
    _llmctl_"${verb:-verbs}" 2>/dev/null
    # What bash holds for another word must not come twice.
    if [[ $typed != "${COMP_WORDS[COMP_CWORD]}" ]]; then
        local kept=${current%"${current##*[:=]}"}
        COMPREPLY=("${COMPREPLY[@]#"$kept"}")
    fi
}
"""


def _bash(commands: Sequence[Command]) -> Iterable[str]:
    yield from _made_by("bash", "source it, or copy it to ~/.local/share/bash-completion/completions/llmctl")
    yield _BASH_HEAD.strip("\n")
    verbs = " ".join(command.name for command in commands)
    yield from ("", "_llmctl_verbs() {", f'    _llmctl_offer "{verbs} --help --version"', "}")
    for command in commands:
        yield from ("", f"_llmctl_{command.name}() {{", *_bash_body(command), "}")
    yield from ("", "complete -F _llmctl llmctl")


def _bash_body(command: Command) -> Iterable[str]:
    words = command.words or Values()
    cases = [f"{' | '.join(names)}) {offer}return ;;" for offer, names in _alike(command).items()]
    for before, after in words.after.items():
        cases.append(f'{before}) _llmctl_offer "{" ".join(after)}"; return ;;')
    if cases:
        yield from ("    case $previous in", *(f"    {case}" for case in cases), "    esac")
    flags = " ".join([*(flag.name for flag in command.flags), "--help"])
    if words.words or words.place:
        yield f'    if [[ $current == -* ]]; then _llmctl_offer "{flags}"; return; fi'
        yield f"    {_bash_offer(words)}".removesuffix("; ")
    else:
        yield f'    _llmctl_offer "{flags}"'


def _alike(command: Command) -> dict[str, list[str]]:
    """The flags that take a value, those with the same values together: what is offered -> names."""
    found: dict[str, list[str]] = {}
    for flag in command.flags:
        if flag.values is not None:
            found.setdefault(_bash_offer(flag.values), []).append(flag.name)
    return found


def _bash_offer(values: Values) -> str:
    if not values.words and not values.place:
        return ""
    place = {"file": " -f", "folder": " -d", None: ""}[values.place]
    offer = f'_llmctl_offer "{" ".join(values.words)}"{place}; '
    return f"compopt -o nospace; {offer}" if values.unfinished else offer


# ---------------------------------------------------------------------------------------------------------------
# zsh


_ZSH_HEAD: Final = r"""
_llmctl() {
    local context state state_descr line
    typeset -A opt_args
    local -a verbs help
    help=('(-h --help)'{-h,--help}'[show help]')
"""

_ZSH_TAIL: Final = r"""
# Both ways of use: as a file of $fpath, and sourced.
if [[ $funcstack[1] == _llmctl ]]; then
    _llmctl "$@"
else
    compdef _llmctl llmctl
fi
"""


def _zsh(commands: Sequence[Command]) -> Iterable[str]:
    yield "#compdef llmctl"
    yield from _made_by("zsh", "copy it as _llmctl to a folder of $fpath, or source it after compinit")
    for command in commands:
        for flag in command.flags:
            yield from _zsh_values(f"_llmctl_{command.name}{flag.name}", flag.values)
        yield from _zsh_values(f"_llmctl_{command.name}", command.words)
    yield _ZSH_HEAD.rstrip("\n")
    yield "    verbs=("
    for command in commands:
        yield f"        {_zsh_quote(f'{command.name}:{command.help}')}"
    yield "    )"
    yield "    _arguments -C $help '--version[print the version]' '1:verb:->verb' '*::word:->word'"
    yield from ("    case $state in", "    verb) _describe verb verbs ;;", "    word)", "        case $words[1] in")
    for command in commands:
        yield f"        {command.name})"
        words = [f"'*:word:{_zsh_action(f'_llmctl_{command.name}', command.words)}'"] if command.words else []
        lines = [
            "            _arguments $help",
            *(_zsh_quote(_zsh_flag(command, flag)) for flag in command.flags),
            *words,
        ]
        yield " \\\n                ".join(lines)
        yield "            ;;"
    yield from ("        esac", "        ;;", "    esac", "}")
    yield _ZSH_TAIL.rstrip("\n")


def _zsh_values(name: str, values: Values | None) -> Iterable[str]:
    """A function that offers them; places alone need none."""
    if values is None or not values.words:
        return
    yield f"{name}() {{"
    if values.after:
        yield "    case $words[CURRENT-1] in"
        for before, after in values.after.items():
            yield f'    {before}) compadd "$@" -- {" ".join(after)}; return ;;'
        yield "    esac"
    if values.words:
        blank = ' -S ""' if values.unfinished else ""
        yield f'    compadd "$@"{blank} -- {" ".join(values.words)}'
    if values.place:
        yield f"    {_zsh_action('', values)}"
    yield "}"


def _zsh_action(function: str, values: Values) -> str:
    """What completes these values: the function where there are words, else zsh's own."""
    return function if function and values.words else {"file": "_files", "folder": "_files -/", None: " "}[values.place]


def _zsh_flag(command: Command, flag: Flag) -> str:
    repeated = "*" if flag.repeatable else ""
    about = flag.help.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    if flag.values is None:
        return f"{repeated}{flag.name}[{about}]"
    return f"{repeated}{flag.name}=[{about}]:value:{_zsh_action(f'_llmctl_{command.name}{flag.name}', flag.values)}"


def _zsh_quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ---------------------------------------------------------------------------------------------------------------
# fish

_FISH_HEAD: Final = """
function __llmctl_verb -d 'The verb that stands in the line'
    for word in (commandline -opc)[2..]
        if not string match -q -- '-*' $word
            echo $word
            return
        end
    end
end

function __llmctl_is -a verb -d 'Whether the line is of that verb'
    test "$(__llmctl_verb)" = "$verb"
end

function __llmctl_after -a verb word -d 'Whether the word before the cursor is that one'
    __llmctl_is $verb; and test (commandline -opc)[-1] = $word
end

complete -c llmctl -f
complete -c llmctl -s h -l help -d 'show help'
complete -c llmctl -n '__llmctl_is ""' -l version -d 'print the version'
"""


def _fish(commands: Sequence[Command]) -> Iterable[str]:
    yield from _made_by("fish", "copy it to ~/.config/fish/completions/llmctl.fish")
    yield _FISH_HEAD.strip("\n")
    for command in commands:
        yield f"complete -c llmctl -n '__llmctl_is \"\"' -a {command.name} -d {_fish_quote(command.help)}"
    for command in commands:
        yield from ("", f"# {command.name}")
        here = f"complete -c llmctl -n '__llmctl_is {command.name}'"
        if command.words:
            yield from _fish_words(command, command.words)
        for flag in command.flags:
            line = f"{here} -l {flag.name.removeprefix('--')}"
            if flag.values is not None:
                line += {"file": " -r -F", "folder": " -x", None: " -x"}[flag.values.place]
                line += _fish_offer(flag.values)
            yield f"{line} -d {_fish_quote(flag.help)}"


def _fish_words(command: Command, values: Values) -> Iterable[str]:
    here = f"complete -c llmctl -n '__llmctl_is {command.name}'"
    if values.after:
        here = f"complete -c llmctl -n '__llmctl_after {command.name} {command.name}'"
    yield here + (" -F" if values.place == "file" else "") + _fish_offer(values)
    for before, after in values.after.items():
        yield f"complete -c llmctl -n '__llmctl_after {command.name} {before}' -a {_fish_quote(' '.join(after))}"


def _fish_offer(values: Values) -> str:
    offered = [*values.words, *(["(__fish_complete_directories)"] if values.place == "folder" else [])]
    return f" -a {_fish_quote(' '.join(offered))}" if offered else ""


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# ---------------------------------------------------------------------------------------------------------------
# PowerShell

_POWERSHELL_TAIL: Final = r"""
Register-ArgumentCompleter -Native -CommandName llmctl -ScriptBlock {
    param($typed, $line, $cursor)
    $words = @($line.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursor -or $_.Extent.Text -ne $typed } |
        Select-Object -Skip 1 | ForEach-Object { $_.Extent.Text })
    $verb = $words | Where-Object { $_ -notlike '-*' } | Select-Object -First 1
    $previous = if ($words.Count) { $words[-1] } else { '' }
    if (-not $verb) {
        $offered = $llmctlVerbs
    } elseif ($llmctlValues.ContainsKey("$verb $previous")) {
        $offered = $llmctlValues["$verb $previous"]
    } elseif ($typed -like '-*' -or -not $llmctlValues.ContainsKey($verb)) {
        $offered = $llmctlOptions[$verb]
    } else {
        $offered = $llmctlValues[$verb]
    }
    # Nothing offered: PowerShell completes files itself.
    $offered | Where-Object { $_ -like "$typed*" } | ForEach-Object {
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }
}
"""


def _powershell(commands: Sequence[Command]) -> Iterable[str]:
    yield from _made_by("powershell", "llmctl completions powershell | Out-String | Invoke-Expression, in $PROFILE")
    yield f"$llmctlVerbs = {_powershell_list([command.name for command in commands])}"
    yield "$llmctlOptions = @{"
    for command in commands:
        yield f"    '{command.name}' = {_powershell_list([*(flag.name for flag in command.flags), '--help'])}"
    yield from ("}", "$llmctlValues = @{")
    for command in commands:
        if command.words:
            yield f"    '{command.name}' = {_powershell_list(command.words.words)}"
            for before, after in command.words.after.items():
                yield f"    '{command.name} {before}' = {_powershell_list(after)}"
        for flag in command.flags:
            if flag.values is not None:
                yield f"    '{command.name} {flag.name}' = {_powershell_list(flag.values.words)}"
    yield "}"
    yield _POWERSHELL_TAIL.rstrip("\n")


def _powershell_list(words: Iterable[str]) -> str:
    return "@(" + ", ".join(f"'{word}'" for word in words) + ")"


SHELLS: Final[Mapping[str, Callable[[Sequence[Command]], Iterable[str]]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
    "powershell": _powershell,
}
