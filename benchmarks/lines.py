"""`python -m benchmarks.lines [FOLDER …]`: lines of code without blanks, comments and docstrings, by folder."""

import ast
import io
import sys
import tokenize
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
QUIET = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def lines_of_code(source: str) -> int:
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in QUIET:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(code)


def main(folders: list[str]) -> None:
    total = 0
    for folder in folders:
        files = sorted((PROJECT / folder).rglob("*.py"))
        count = sum(lines_of_code(file.read_text("utf-8")) for file in files)
        print(f"{count:6}  {folder} ({len(files)} files)")
        total += count
    print(f"{total:6}  together")


if __name__ == "__main__":
    main(sys.argv[1:] or ["serve_app", "deployments"])
