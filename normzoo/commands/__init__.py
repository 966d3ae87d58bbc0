"""The commands of `normzoo`, one file each."""
