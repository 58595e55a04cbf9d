"""The bundled ImageNet start (see README.md beside this file) and the script that made it."""
