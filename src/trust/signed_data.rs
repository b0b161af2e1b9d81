//! The shape of a detached PKCS#7 signature (RFC 2315, 9; RFC 5652, 5), checked before OpenSSL sees any of it.
//!
//! OpenSSL takes more than we do: trailing bytes, embedded content, any digest, a missing content-type attribute.

use super::der::{DerError, Element, Reader, encode, object_identifier_text, tag};
use super::signature::SignatureError;

/// The most signers that are looked at: systemd-repart makes one, a key change may need two.
const MAXIMUM_SIGNERS: usize = 8;

/// A detached signature over content of type `data`.
#[derive(Debug)]
pub(super) struct SignedData<'a> {
    /// Everyone who signed, at least one.
    pub(super) signers: Vec<SignerInfo<'a>>,
}

/// One signature of a [`SignedData`].
#[derive(Debug)]
pub(super) struct SignerInfo<'a> {
    /// The issuer's name of the signer's certificate, in DER.
    pub(super) issuer: &'a [u8],
    /// The serial number of the signer's certificate: the content of its INTEGER.
    pub(super) serial: &'a [u8],
    /// What kind of key the signature algorithm belongs to.
    pub(super) key_type: KeyType,
    digest_algorithm: &'a [u8],
    whole: &'a [u8],
}

/// What kind of key a signature algorithm belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyType {
    Rsa,
    EllipticCurve,
}

/// A digest that a signature may be made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignatureDigest {
    Sha256,
    Sha384,
    Sha512,
}

impl<'a> SignedData<'a> {
    /// Reads a signature, all of it.
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, SignatureError> {
        let mut outer = Reader::new(der);
        let content_info = outer.expect(tag::SEQUENCE, "a ContentInfo")?;
        if !outer.is_empty() {
            return Err(SignatureError::TrailingBytes { count: outer.remaining() });
        }
        let mut content_info = content_info.inside();
        let content_type = content_info.expect(tag::OBJECT_IDENTIFIER, "a content type")?;
        if content_type.content() != oid::SIGNED_DATA {
            return Err(SignatureError::NotSignedData {
                found: object_identifier_text(content_type.content()),
            });
        }
        let mut content = content_info.expect(tag::CONTEXT_0, "signed data")?.inside();
        content_info.end("the end of the ContentInfo")?;
        let signed_data = content.expect(tag::SEQUENCE, "signed data")?;
        content.end("the end of the signed data")?;
        Self::parse_fields(signed_data.inside())
    }

    fn parse_fields(mut fields: Reader<'a>) -> Result<Self, SignatureError> {
        expect_version_1(&mut fields, "version 1 of signed data")?;
        let mut digests = fields.expect(tag::SET, "the set of digest algorithms")?.inside();
        for _ in 0..MAXIMUM_SIGNERS {
            if !digests.is_empty() {
                SignatureDigest::parse(digests.expect(tag::SEQUENCE, "a digest algorithm")?)?;
            }
        }
        digests.end("at most 8 digest algorithms")?;

        let mut encapsulated = fields.expect(tag::SEQUENCE, "the content information")?.inside();
        let content_type = encapsulated.expect(tag::OBJECT_IDENTIFIER, "the type of what is signed")?;
        if content_type.content() != oid::DATA {
            return Err(SignatureError::WrongContentType {
                found: object_identifier_text(content_type.content()),
            });
        }
        if encapsulated.optional(tag::CONTEXT_0)?.is_some() {
            return Err(SignatureError::NotDetached);
        }
        encapsulated.end("the end of the content information")?;

        // Certificates that come along say nothing: nobody here trusts them. Revocation lists have no place here.
        fields.optional(tag::CONTEXT_0)?;

        let mut signer_infos = fields.expect(tag::SET, "the set of signers")?.inside();
        fields.end("the end of the signed data")?;
        if signer_infos.is_empty() {
            return Err(SignatureError::NoSigner);
        }
        let mut signers = Vec::new();
        while !signer_infos.is_empty() {
            if signers.len() == MAXIMUM_SIGNERS {
                return Err(SignatureError::TooManySigners { limit: MAXIMUM_SIGNERS });
            }
            signers.push(SignerInfo::parse(signer_infos.expect(tag::SEQUENCE, "a signer")?)?);
        }
        Ok(Self { signers })
    }
}

impl<'a> SignerInfo<'a> {
    fn parse(element: Element<'a>) -> Result<Self, SignatureError> {
        let mut fields = element.inside();
        expect_version_1(&mut fields, "version 1 of a signer")?;
        let mut identifier = fields.expect(tag::SEQUENCE, "issuer and serial number of a signer")?.inside();
        let issuer = identifier.expect(tag::SEQUENCE, "an issuer")?.whole();
        let serial = identifier.expect(tag::INTEGER, "a serial number")?.content();
        identifier.end("the end of issuer and serial number")?;
        let digest_algorithm = fields.expect(tag::SEQUENCE, "a digest algorithm")?;
        let digest = SignatureDigest::parse(digest_algorithm)?;
        if let Some(attributes) = fields.optional(tag::CONTEXT_0)? {
            check_signed_attributes(attributes)?;
        }
        let key_type =
            parse_signature_algorithm(fields.expect(tag::SEQUENCE, "a signature algorithm")?, digest)?;
        fields.expect(tag::OCTET_STRING, "a signature")?;
        // Unsigned attributes: timestamps and the like, which nothing here relies on.
        fields.optional(tag::CONTEXT_1)?;
        fields.end("the end of a signer")?;
        Ok(Self {
            issuer,
            serial,
            key_type,
            digest_algorithm: digest_algorithm.whole(),
            whole: element.whole(),
        })
    }

    /// A signature by this signer alone, without embedded certificates: all that OpenSSL needs to see.
    pub(super) fn alone(&self) -> Vec<u8> {
        let content_type = encode(tag::OBJECT_IDENTIFIER, oid::DATA);
        let fields = [
            VERSION_1.to_vec(),
            encode(tag::SET, self.digest_algorithm),
            encode(tag::SEQUENCE, &content_type),
            encode(tag::SET, self.whole),
        ]
        .concat();
        let content = encode(tag::CONTEXT_0, &encode(tag::SEQUENCE, &fields));
        encode(tag::SEQUENCE, &[encode(tag::OBJECT_IDENTIFIER, oid::SIGNED_DATA), content].concat())
    }
}

impl SignatureDigest {
    fn parse(algorithm: Element<'_>) -> Result<Self, SignatureError> {
        let (identifier, parameters) = parse_algorithm(algorithm)?;
        let digest = match identifier {
            oid::SHA256 => Self::Sha256,
            oid::SHA384 => Self::Sha384,
            oid::SHA512 => Self::Sha512,
            other => return Err(refused_digest(other)),
        };
        parameters.absent_or_null(algorithm)?;
        Ok(digest)
    }
}

/// What kind of key this signature algorithm belongs to. OpenSSL would not look: it goes by the key alone.
fn parse_signature_algorithm(
    algorithm: Element<'_>,
    digest: SignatureDigest,
) -> Result<KeyType, SignatureError> {
    let (identifier, parameters) = parse_algorithm(algorithm)?;
    let (key_type, named_digest) = match identifier {
        oid::RSA => (KeyType::Rsa, None),
        oid::SHA256_WITH_RSA => (KeyType::Rsa, Some(SignatureDigest::Sha256)),
        oid::SHA384_WITH_RSA => (KeyType::Rsa, Some(SignatureDigest::Sha384)),
        oid::SHA512_WITH_RSA => (KeyType::Rsa, Some(SignatureDigest::Sha512)),
        oid::ECDSA_WITH_SHA256 => (KeyType::EllipticCurve, Some(SignatureDigest::Sha256)),
        oid::ECDSA_WITH_SHA384 => (KeyType::EllipticCurve, Some(SignatureDigest::Sha384)),
        oid::ECDSA_WITH_SHA512 => (KeyType::EllipticCurve, Some(SignatureDigest::Sha512)),
        other => {
            return Err(match weak_digest_name(other) {
                Some(name) => SignatureError::WeakDigest { found: name },
                None => SignatureError::UnsupportedAlgorithm { found: object_identifier_text(other) },
            });
        }
    };
    if named_digest.is_some_and(|named| named != digest) {
        return Err(algorithm.not("a signature algorithm with the signer's digest").into());
    }
    parameters.absent_or_null(algorithm)?;
    Ok(key_type)
}

/// The parameters of an algorithm.
struct Parameters<'a>(Option<Element<'a>>);

impl Parameters<'_> {
    fn absent_or_null(&self, algorithm: Element<'_>) -> Result<(), DerError> {
        match self.0 {
            None => Ok(()),
            Some(parameters) if parameters.whole() == [tag::NULL, 0] => Ok(()),
            Some(_) => Err(algorithm.not("an algorithm without parameters")),
        }
    }
}

fn parse_algorithm(algorithm: Element<'_>) -> Result<(&[u8], Parameters<'_>), DerError> {
    let mut fields = algorithm.inside();
    let identifier = fields.expect(tag::OBJECT_IDENTIFIER, "an algorithm")?.content();
    let parameters = if fields.is_empty() { None } else { Some(fields.next()?) };
    fields.end("the end of an algorithm")?;
    Ok((identifier, Parameters(parameters)))
}

fn refused_digest(identifier: &[u8]) -> SignatureError {
    match weak_digest_name(identifier) {
        Some(name) => SignatureError::WeakDigest { found: name },
        None => SignatureError::UnsupportedAlgorithm { found: object_identifier_text(identifier) },
    }
}

/// The name of a digest, or of a signature algorithm with one, that has fewer than 128 bits of collision resistance.
fn weak_digest_name(identifier: &[u8]) -> Option<&'static str> {
    oid::WEAK.iter().find(|(weak, _)| *weak == identifier).map(|(_, name)| *name)
}

/// Signed attributes must say twice what they sign (RFC 5652, 11.1 and 11.2): OpenSSL compares the digest and leaves
/// the content type alone.
fn check_signed_attributes(attributes: Element<'_>) -> Result<(), SignatureError> {
    let (mut content_types, mut message_digests) = (0_u32, 0_u32);
    let mut rest = attributes.inside();
    while !rest.is_empty() {
        let attribute = rest.expect(tag::SEQUENCE, "a signed attribute")?;
        let mut fields = attribute.inside();
        let identifier = fields.expect(tag::OBJECT_IDENTIFIER, "the type of a signed attribute")?.content();
        let mut values = fields.expect(tag::SET, "the values of a signed attribute")?.inside();
        fields.end("the end of a signed attribute")?;
        match identifier {
            oid::CONTENT_TYPE_ATTRIBUTE => {
                content_types = content_types.saturating_add(1);
                let value = values.expect(tag::OBJECT_IDENTIFIER, "a content type as signed attribute")?;
                values.end("one content type as signed attribute")?;
                if value.content() != oid::DATA {
                    let found = object_identifier_text(value.content());
                    return Err(SignatureError::WrongContentType { found });
                }
            }
            oid::MESSAGE_DIGEST_ATTRIBUTE => {
                message_digests = message_digests.saturating_add(1);
                values.expect(tag::OCTET_STRING, "a message digest as signed attribute")?;
                values.end("one message digest as signed attribute")?;
            }
            _ => (),
        }
    }
    if (content_types, message_digests) == (1, 1) {
        Ok(())
    } else {
        Err(attributes.not("content type and message digest, each once, as signed attributes").into())
    }
}

fn expect_version_1(fields: &mut Reader<'_>, expected: &'static str) -> Result<(), DerError> {
    let version = fields.expect(tag::INTEGER, expected)?;
    if version.whole() == VERSION_1 { Ok(()) } else { Err(version.not(expected)) }
}

/// INTEGER 1: issuer and serial number name the signer (RFC 5652, 5.1 and 5.3).
const VERSION_1: [u8; 3] = [tag::INTEGER, 1, 1];

/// Object identifiers, as the content of their elements.
mod oid {
    /// `data` 1.2.840.113549.1.7.1 (RFC 2315, 14).
    pub(super) const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
    /// `signedData` 1.2.840.113549.1.7.2 (RFC 2315, 14).
    pub(super) const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
    /// `contentType` 1.2.840.113549.1.9.3 (RFC 5652, 11.1).
    pub(super) const CONTENT_TYPE_ATTRIBUTE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
    /// `messageDigest` 1.2.840.113549.1.9.4 (RFC 5652, 11.2).
    pub(super) const MESSAGE_DIGEST_ATTRIBUTE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];
    /// SHA-256 2.16.840.1.101.3.4.2.1 (RFC 5754, 2).
    pub(super) const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
    /// SHA-384 2.16.840.1.101.3.4.2.2 (RFC 5754, 2).
    pub(super) const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
    /// SHA-512 2.16.840.1.101.3.4.2.3 (RFC 5754, 2).
    pub(super) const SHA512: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3];
    /// `rsaEncryption` 1.2.840.113549.1.1.1 (RFC 3370, 3.2).
    pub(super) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    /// RSA with SHA-256 1.2.840.113549.1.1.11 (RFC 5754, 3.2).
    pub(super) const SHA256_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
    /// RSA with SHA-384 1.2.840.113549.1.1.12 (RFC 5754, 3.2).
    pub(super) const SHA384_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12];
    /// RSA with SHA-512 1.2.840.113549.1.1.13 (RFC 5754, 3.2).
    pub(super) const SHA512_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13];
    /// ECDSA with SHA-256 1.2.840.10045.4.3.2 (RFC 5754, 3.3).
    pub(super) const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    /// ECDSA with SHA-384 1.2.840.10045.4.3.3 (RFC 5754, 3.3).
    pub(super) const ECDSA_WITH_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
    /// ECDSA with SHA-512 1.2.840.10045.4.3.4 (RFC 5754, 3.3).
    pub(super) const ECDSA_WITH_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];

    /// Digests that do not count, alone and in signature algorithms (RFC 3279, 2.1 and 2.2; RFC 5754, 2.1 and 3).
    pub(super) const WEAK: [(&[u8], &str); 11] = [
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 2], "md2"),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 4], "md4"),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 5], "md5"),
        (&[0x2b, 0x0e, 3, 2, 26], "sha1"),
        (&[0x2b, 0x24, 3, 2, 1], "ripemd160"),
        (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 4], "sha224"),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4], "md5"),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5], "sha1"),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 14], "sha224"),
        (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1], "sha1"),
        (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 1], "sha224"),
    ];
}
