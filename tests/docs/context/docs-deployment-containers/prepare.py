"""Write the project that the page is about into this folder."""

import shutil
import subprocess

subprocess.run(["eventml", "init", "shop", "--with", "docker"], check=True)
shutil.copytree("shop", ".", dirs_exist_ok=True)
