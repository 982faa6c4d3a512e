//! Tests of whole tables; see the modules.
