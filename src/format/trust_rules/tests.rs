use proptest::prelude::*;

use super::*;
use crate::format::written_line::MAXIMUM_LINE;

const A: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn subject(text: &str) -> TrustSubject {
    let rules = parse(text).unwrap();
    assert_eq!(rules.len(), 1, "{text}");
    rules[0].subject.clone()
}

fn problem(text: &str) -> TrustLineError {
    parse(text).unwrap_err().problem
}

fn digest_a() -> ListedDigest {
    ListedDigest::from_hexadecimal(A.as_bytes()).unwrap()
}

#[test]
fn every_directive_says_what_it_says() {
    let text = format!(
        "# withdrawn\n\n\trevoke-root-hash = {A} \"CVE-2026-1 # in it\" # comment\nrevoke-root-hash={A}{A}\n\
         revoke-certificate = {A}\nrevoke-image = {A} # comment\n\
         limit-certificate = {A} sysext confext:site-* *:debug-? \"operations\"\n  # end"
    );
    let rules = parse(&text).unwrap();
    let purposes = ["sysext", "confext:site-*", "*:debug-?"].map(|text| text.parse().unwrap()).to_vec();
    let expected = [
        (TrustSubject::RevokedRootHash(A.parse().unwrap()), Some("CVE-2026-1 # in it")),
        (TrustSubject::RevokedRootHash(format!("{A}{A}").parse().unwrap()), None),
        (TrustSubject::RevokedCertificate(digest_a()), None),
        (TrustSubject::RevokedImage(digest_a()), None),
        (TrustSubject::LimitedCertificate(digest_a(), purposes), Some("operations")),
    ];
    assert_eq!(rules.len(), expected.len());
    for (rule, (subject, reason)) in rules.iter().zip(expected) {
        assert_eq!((&rule.subject, rule.reason.as_deref()), (&subject, reason));
    }
    assert_eq!(parse("").unwrap(), []);
}

#[test]
fn a_fingerprint_may_be_pasted_as_openssl_prints_it() {
    let upper = A.to_uppercase();
    let pairs: Vec<&str> = (0..32).map(|at| &upper[2 * at..2 * at + 2]).collect();
    let line = format!("revoke-certificate = {}", pairs.join(":"));
    assert_eq!(subject(&line), TrustSubject::RevokedCertificate(digest_a()));
    let wrong = line.replacen(':', "", 1);
    assert!(matches!(problem(&wrong), TrustLineError::Digest { .. }), "{wrong}");
    let image = format!("revoke-image = {}", pairs.join(":"));
    assert!(matches!(problem(&image), TrustLineError::Digest { .. }), "{image}");
}

#[test]
fn what_is_not_understood_is_an_error_with_its_line() {
    type Expectation = fn(&TrustLineError) -> bool;
    let cases: Vec<(String, Expectation)> = vec![
        (format!("revoke = {A}"), |e| matches!(e, TrustLineError::Directive(found) if found == "revoke")),
        (format!("Revoke-root-hash = {A}"), |e| matches!(e, TrustLineError::Directive(_))),
        (format!("revoke-root-hash {A}"), |e| matches!(e, TrustLineError::Directive(_))),
        ("[trust]".to_owned(), |e| matches!(e, TrustLineError::Directive(_))),
        ("= x".to_owned(), |e| matches!(e, TrustLineError::Directive(_))),
        ("revoke-root-hash =".to_owned(), |e| matches!(e, TrustLineError::RootHash { .. })),
        (format!("revoke-root-hash = {}", &A[2..]), |e| matches!(e, TrustLineError::RootHash { .. })),
        (format!("revoke-root-hash = {}x", &A[1..]), |e| matches!(e, TrustLineError::RootHash { .. })),
        (format!("revoke-root-hash = {A} {A}"), |e| matches!(e, TrustLineError::Word(_))),
        (format!("revoke-root-hash = {A} because"), |e| matches!(e, TrustLineError::Word(_))),
        (format!("revoke-certificate = {A}{A}"), |e| matches!(e, TrustLineError::Digest { .. })),
        ("revoke-image = ".to_owned(), |e| matches!(e, TrustLineError::Digest { .. })),
        (format!("revoke-image = {A} \"why"), |e| {
            matches!(e, TrustLineError::Line(WrittenLineError::Reason))
        }),
        (format!("revoke-image = {A} \" \""), |e| {
            matches!(e, TrustLineError::Line(WrittenLineError::Reason))
        }),
        (format!("revoke-image = {A} \"why\" more"), |e| {
            matches!(e, TrustLineError::Line(WrittenLineError::Reason))
        }),
        (format!("revoke-image = {A} \"why\"#more"), |e| {
            matches!(e, TrustLineError::Line(WrittenLineError::Reason))
        }),
        (format!("limit-certificate = {A}"), |e| matches!(e, TrustLineError::NoPurpose)),
        (format!("limit-certificate = {A} \"why\""), |e| matches!(e, TrustLineError::NoPurpose)),
        (format!("limit-certificate = {A} machines"), |e| matches!(e, TrustLineError::Purpose { .. })),
        (format!("limit-certificate = {A} machine,sysext"), |e| matches!(e, TrustLineError::Purpose { .. })),
        (format!("limit-certificate = {A} sysext *"), |e| matches!(e, TrustLineError::Purpose { .. })),
        (format!("limit-certificate = {A} *:**"), |e| matches!(e, TrustLineError::Purpose { .. })),
        (format!("limit-certificate = {A} sysext:"), |e| matches!(e, TrustLineError::Purpose { .. })),
        (format!("limit-certificate = {A} sysext:[ab]"), |e| matches!(e, TrustLineError::Purpose { .. })),
        (format!("revoke-image = {A}\r"), |e| {
            matches!(e, TrustLineError::Line(WrittenLineError::ControlCharacter('\r')))
        }),
        ("# \0".to_owned(), |e| matches!(e, TrustLineError::Line(WrittenLineError::ControlCharacter('\0')))),
        (format!("#{}", "x".repeat(MAXIMUM_LINE)), |e| {
            matches!(e, TrustLineError::Line(WrittenLineError::TooLong(4097)))
        }),
    ];
    for (line, expected) in cases {
        let error = parse(&format!("# first\n{line}\n")).unwrap_err();
        assert_eq!(error.line, 2, "{line}");
        assert!(expected(&error.problem), "{line}: {error:?}");
        assert!(!error.to_string().chars().any(char::is_control), "{error}");
    }
}

#[test]
fn what_is_not_known_of_an_image_is_no_match() {
    let purpose = |text: &str| text.parse::<Purpose>().unwrap();
    let sysext = Some(ImageClass::Sysext);
    assert!(purpose("sysext").covers(sysext, None));
    assert!(purpose("sysext:*").covers(sysext, None));
    assert!(!purpose("sysext").covers(None, Some("web")));
    assert!(!purpose("sysext").covers(Some(ImageClass::Machine), Some("web")));
    assert!(purpose("sysext:web-*").covers(sysext, Some("web-1")));
    assert!(!purpose("sysext:web-*").covers(sysext, None));
    assert!(purpose("*:web-*").covers(None, Some("web-1")));
    assert!(!purpose("*:web-*").covers(None, Some("aweb-1")));
}

fn rule() -> impl Strategy<Value = String> {
    let hex = "[0-9a-fA-F]{64}";
    let purpose = "(machine|portable|sysext|confext|\\*:[a-z?]{1,4})(:[a-z*?]{1,6})?";
    let line = prop_oneof![
        hex.prop_map(|hash| format!("revoke-root-hash = {hash}")),
        hex.prop_map(|hash| format!("revoke-certificate={hash}")),
        hex.prop_map(|hash| format!("revoke-image\t= {hash}")),
        (hex, proptest::collection::vec("(machine|portable|sysext|confext|\\*:[a-z?]{1,4})", 1..4))
            .prop_map(|(hash, purposes)| format!("limit-certificate = {hash} {}", purposes.join("  "))),
        (hex, purpose).prop_filter_map("two colons are none", |(hash, purpose)| {
            (purpose.matches(':').count() < 2).then(|| format!("limit-certificate = {hash} {purpose}"))
        }),
    ];
    (line, proptest::option::of("[a-zA-Z0-9#= ]{0,20}x")).prop_map(|(line, reason)| match reason {
        Some(reason) => format!("{line} \"{reason}\" # note"),
        None => line,
    })
}

proptest! {
    #[test]
    fn any_text_gives_rules_or_an_error_with_a_line_of_it(text in "(?s).{0,200}") {
        match parse(&text) {
            Ok(rules) => prop_assert!(rules.len() <= text.split('\n').count()),
            Err(error) => prop_assert!((1..=text.split('\n').count()).contains(&error.line)),
        }
    }

    #[test]
    fn printing_and_parsing_are_inverse(lines in proptest::collection::vec(rule(), 0..5)) {
        let rules = parse(&lines.join("\n")).unwrap();
        prop_assert_eq!(rules.len(), lines.len());
        let printed: Vec<String> = rules.iter().map(ToString::to_string).collect();
        prop_assert_eq!(&parse(&printed.join("\n")).unwrap(), &rules);
    }

    #[test]
    fn a_line_that_is_damaged_is_never_passed_over(line in rule(), at in 0_usize..20, with in "[a-z!%/]") {
        // The directive and its '=' are within the first twenty characters of every line.
        let end = line.find('=').unwrap();
        let at = at.min(end);
        let mut damaged: String = line.chars().take(at).collect();
        damaged.push_str(&with);
        damaged.extend(line.chars().skip(at + 1));
        prop_assume!(damaged != line);
        prop_assert!(parse(&damaged).is_err(), "{}", damaged);
    }
}
