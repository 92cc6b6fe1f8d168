"""Measurements that results/ keeps; each command is named in the file it writes."""
