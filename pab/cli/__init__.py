"""The commands of ``pab``, a file each; the first line of the file says what the command does."""
