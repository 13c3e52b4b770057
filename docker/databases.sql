-- PostgreSQL runs this once, when its volume is new. What works for us owns its two databases and
-- can do nothing else: code of jobs runs as it. The superuser is let in inside the container alone.
\set password `cat /secrets/postgres-password`
CREATE ROLE prometheus LOGIN PASSWORD :'password';
CREATE DATABASE prometheus OWNER prometheus;
CREATE DATABASE replay OWNER prometheus;
ALTER ROLE postgres PASSWORD NULL;
