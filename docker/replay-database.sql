-- PostgreSQL runs this once, when its volume is new: the replay has a database of its own.
CREATE DATABASE replay;
