-- The roles of a warehouse in PostgreSQL, and their rights on the tables of a pipeline; run by `penstock migrate --roles`.
-- Nobody logs in as one of them: GRANT penstock_loader TO the user who loads, and so on. Run again, this changes nothing.

DO $roles$
DECLARE
    part   TEXT;
    place  TEXT := current_schema();
BEGIN
    FOREACH part IN ARRAY ARRAY['penstock_owner', 'penstock_loader', 'penstock_reader', 'penstock_modeller'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = part) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', part);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- somebody has made it for another database at the same time
            END;
        END IF;
    END LOOP;

    -- To hand tables to a role, and to say what others may do with those that it will make, one has to be in it.
    FOREACH part IN ARRAY ARRAY['penstock_owner', 'penstock_modeller'] LOOP
        IF NOT pg_has_role(current_user, part, 'USAGE') THEN
            EXECUTE format('GRANT %I TO %I', part, current_user);
        END IF;
    END LOOP;

    EXECUTE format('GRANT USAGE ON SCHEMA %I TO penstock_loader, penstock_reader', place);
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO penstock_owner, penstock_modeller', place);
    FOREACH part IN ARRAY ARRAY['penstock_loader', 'penstock_modeller'] LOOP
        IF NOT has_database_privilege(part, current_database(), 'TEMPORARY') THEN
            EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), part);
        END IF;
    END LOOP;

    FOREACH part IN ARRAY ARRAY[{tables}] LOOP
        CONTINUE WHEN to_regclass(format('%I.%I', place, part)) IS NULL;
        EXECUTE format('ALTER TABLE %I.%I OWNER TO penstock_owner', place, part);
        IF part LIKE 'penstock\_alembic\_%' THEN
            -- Of the migrations alone; one that came later has got the rights of tables to come.
            EXECUTE format('REVOKE ALL ON %I.%I FROM penstock_loader, penstock_reader, penstock_modeller', place, part);
            CONTINUE;
        END IF;
        EXECUTE format('GRANT SELECT ON %I.%I TO penstock_reader, penstock_modeller', place, part);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I.%I TO penstock_loader', place, part);
    END LOOP;
    -- The version of the tables is not the loader's to change.
    EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON %I.penstock_schema FROM penstock_loader', place);

    -- The same for tables to come, and for the models: they are read like tables.
    EXECUTE format(
        'ALTER DEFAULT PRIVILEGES FOR ROLE penstock_owner IN SCHEMA %I '
        'GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO penstock_loader', place);
    EXECUTE format(
        'ALTER DEFAULT PRIVILEGES FOR ROLE penstock_owner IN SCHEMA %I '
        'GRANT SELECT ON TABLES TO penstock_reader, penstock_modeller', place);
    EXECUTE format(
        'ALTER DEFAULT PRIVILEGES FOR ROLE penstock_modeller IN SCHEMA %I GRANT SELECT ON TABLES TO penstock_reader',
        place);
END
$roles$;
