"""The command `mcpctl`."""
import sys
from pathlib import Path
from mcpctl.cli.errors import CliError
def run():
    from mcpctl.cli.up import up, Options
    try:
        up(Options(Path(sys.argv[1]), http_port=int(sys.argv[2]), demo='--demo' in sys.argv, verbose='-v' in sys.argv))
    except CliError as e:
        print("Error:", e, file=sys.stderr); sys.exit(e.code)
if __name__ == "__main__": run()
